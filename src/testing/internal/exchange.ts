// One request and its answer: carries out a plan, and knows when the client has left.
import type { ServerResponse } from "node:http"
import type { Plan } from "./plan.ts"

// A reset must not overtake the data before it.
const BEFORE_RESET_MILLIS = 10
const LONGEST_TIMER_MILLIS = 2 ** 31 - 1

// Lets a piece leave alone: the kernel would glue pieces written in one turn together.
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

export class Exchange {
  private readonly response: ServerResponse
  private readonly onClose: (aborted: boolean, sent: boolean) => void
  private open = true
  private ours = false
  private sent = false
  private timer: NodeJS.Timeout | undefined
  private wake: (() => void) | undefined

  /** `onClose` is called once: whether the client left before it had its answer, and whether all of the plan was sent. */
  constructor(response: ServerResponse, onClose: (aborted: boolean, sent: boolean) => void) {
    this.response = response
    this.onClose = onClose
    response.once("close", () => this.closed(!this.ours && !response.writableFinished))
    response.on("error", () => {}) // a client that leaves while we write
  }

  async run(plan: Plan): Promise<void> {
    const { response } = this
    if (plan.before > 0) await this.pause(plan.before)
    if (!this.open) return
    if (plan.head === undefined) {
      if (plan.ending === "reset") this.reset()
      return
    }
    response.writeHead(plan.head.status, plan.head.headers)
    if (plan.ending === "end" && plan.silence === 0 && plan.body.length < 2) {
      const only = plan.body[0]
      this.sent = true
      response.end(plan.opening === "" ? only : plan.opening + String(only ?? ""))
      return
    }
    response.flushHeaders()
    if (plan.opening !== "") await this.send(plan.opening)
    await this.quiet(plan.silence, plan)
    for (const [i, piece] of plan.body.entries()) {
      if (i > 0) await (plan.gap > 0 ? this.pause(plan.gap) : nextTurn())
      if (!this.open) return
      await this.send(piece)
    }
    this.sent = this.open
    if (plan.ending === "stall") await this.quiet(Infinity, plan)
    else if (plan.ending === "reset") {
      await this.pause(BEFORE_RESET_MILLIS)
      this.reset()
    } else if (this.open) response.end()
  }

  /** The server is going away: no timer, no further step. */
  stop(): void {
    this.ours = true
    this.closed(false)
  }

  private closed(aborted: boolean): void {
    if (!this.open) return
    this.open = false
    clearTimeout(this.timer)
    this.wake?.()
    this.onClose(aborted, this.sent)
  }

  private reset(): void {
    if (!this.open) return
    this.ours = true
    this.response.socket?.resetAndDestroy()
  }

  private pause(millis: number): Promise<void> {
    return new Promise((resolve) => {
      if (!this.open) return resolve()
      this.wake = resolve
      this.timer = setTimeout(resolve, Math.min(millis, LONGEST_TIMER_MILLIS))
    })
  }

  /** Resolves when the piece has left, or cannot leave any more. */
  private send(piece: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.open) this.response.write(piece, () => resolve())
      else resolve()
    })
  }

  /** Sends nothing but keep-alives for a while, the first one at once. */
  private async quiet(millis: number, { keepAlive }: Plan): Promise<void> {
    if (millis === 0) return
    if (keepAlive === undefined) {
      if (millis !== Infinity) await this.pause(millis)
      return
    }
    const every = Math.max(1, keepAlive.every)
    for (let left = millis; left > 0 && this.open; left -= every) {
      await this.send(keepAlive.text)
      await this.pause(Math.min(left, every))
    }
  }
}
