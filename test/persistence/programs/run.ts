// Starts a program as a process of its own, and talks to it by lines.
import { type ChildProcess, spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

export class Program {
  readonly child: ChildProcess
  readonly lines: Array<string> = []
  readonly exited: Promise<number | null>
  private errors = ""
  private waiting: Array<() => void> = []

  constructor(name: string, job: unknown) {
    const file = fileURLToPath(new URL(`./${name}.ts`, import.meta.url))
    const child = this.child = spawn(process.execPath, ["--no-warnings", file, JSON.stringify(job)], {
      stdio: ["pipe", "pipe", "pipe"]
    })
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.lines.push(line)
      this.wake()
    })
    child.stderr.on("data", (chunk) => {
      this.errors += String(chunk)
    })
    this.exited = new Promise((resolve) => {
      child.on("close", (code) => {
        resolve(code)
        this.wake()
      })
    })
  }

  private wake(): void {
    for (const resume of this.waiting.splice(0)) resume()
  }

  /** The first line that begins so. */
  async line(start: string): Promise<string> {
    for (;;) {
      const found = this.lines.find((line) => line.startsWith(start))
      if (found !== undefined) return found
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        throw new Error(`the program ended without "${start}":\n${this.errors}`)
      }
      await new Promise<void>((resolve) => {
        this.waiting.push(resolve)
      })
    }
  }

  say(text: string): void {
    this.child.stdin!.write(`${text}\n`)
  }

  async report<A>(): Promise<A> {
    return JSON.parse(await this.line("{")) as A
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL")
    await this.exited
  }
}
