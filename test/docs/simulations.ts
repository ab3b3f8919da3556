// The commands of the pages about the simulator and what they printed. `node test/docs/simulations.ts` runs them all and writes
// what they print now, and the pictures; the test beside it tells where a page says something else.
//
// A command is a block `sh` that begins with `npx resilient-llm simulate`, what it printed the block ```text after it: with
// numbers behind the word only these sections of the output (the latencies are 1). A command with `--html` has its charts drawn
// by the names in a comment before it: `<!-- charts: answered share, p99 -->`.
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../..", import.meta.url))
export const pages = ["docs/simulator.md", "docs/choosing.md"]

export interface Simulation {
  readonly page: string
  readonly command: string
  /** Sections of what is printed. */
  readonly sections: ReadonlyArray<number>
  /** What the page says. */
  readonly said: string
  readonly charts: ReadonlyArray<string>
}

const BLOCKS =
  /(?:<!-- charts: ([^>]+) -->\n\n)?```sh\n(npx resilient-llm simulate [^`]+)\n```\n\n(?:[^`]+\n\n)?```text ([\d ]+)\n([^`]*)\n```/g

export const simulationsIn = (page: string): ReadonlyArray<Simulation> =>
  [...readFileSync(join(root, page), "utf8").matchAll(BLOCKS)].map(([, charts, command, sections, said]) => ({
    page,
    command: command!.replaceAll(/\\\n\s*/g, ""),
    sections: sections!.split(" ").map(Number),
    said: said!,
    charts: charts?.split(", ") ?? []
  }))

const traces = process.env["LLM_TRACES"] ?? "../shared/traces"

/** The trace is not part of the project. */
export const canRun = ({ command }: Simulation): boolean =>
  !command.includes("$LLM_TRACES") || existsSync(join(traces, "azure_llm_2023_conv.csv.gz"))

export interface Ran {
  readonly printed: string
  /** Pictures by their path. */
  readonly pictures: ReadonlyMap<string, string>
}

export const runSimulation = async ({ charts, command, page, sections }: Simulation): Promise<Ran> => {
  const folder = mkdtempSync(join(tmpdir(), "simulations-"))
  try {
    const html = join(folder, "page.html")
    const args = command.replace("$LLM_TRACES", traces).split(" ").slice(2)
      .map((arg, i, all) => all[i - 1] === "--html" ? html : arg)
    const out = (await output(args)).trim().split("\n\n")
    const drawn = charts.map((label) => {
      const name = `${page.replace(/\.md$/, "")}-${label.replaceAll(" ", "-")}.svg`
      return [name, picture(readFileSync(html, "utf8"), label)] as const
    })
    return { printed: sections.map((i) => out[i]).join("\n\n"), pictures: new Map(drawn) }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const output = (args: ReadonlyArray<string>): Promise<string> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["src/cli/bin.ts", ...args], {
      cwd: root,
      env: { NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] }
    })
    let [out, err] = ["", ""]
    child.stdout.on("data", (chunk) => out += chunk)
    child.stderr.on("data", (chunk) => err += chunk)
    child.on("error", reject)
    child.on("close", (code) => code === 0 ? resolve(out) : reject(new Error(`${args.join(" ")}: ${err}`)))
  })

/** A chart of the page with the page's own colours. */
const picture = (html: string, label: string): string => {
  const style = /<style>[\s\S]*?<\/style>/.exec(html)![0]
  const chart = new RegExp(`<svg [^>]*aria-label="${label}">`).exec(html)
  if (chart === null) throw new Error(`the page has no chart "${label}"`)
  const end = html.indexOf("</svg>", chart.index)
  const back = "<rect width=\"100%\" height=\"100%\" style=\"fill: var(--back)\"/>"
  const font = "<style>text { font-family: system-ui, sans-serif; }</style>"
  return `${chart[0].replace("<svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"")}${style}${font}${back}` +
    `${html.slice(chart.index + chart[0].length, end)}</svg>\n`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const page of pages) {
    let text = readFileSync(join(root, page), "utf8")
    for (const simulation of simulationsIn(page)) {
      if (!canRun(simulation)) {
        process.stdout.write(`no trace for: ${simulation.command}\n`)
        continue
      }
      const { pictures, printed } = await runSimulation(simulation)
      process.stdout.write(`${printed === simulation.said ? "same" : "new"}: ${simulation.command}\n`)
      const block = (said: string): string => `\`\`\`text ${simulation.sections.join(" ")}\n${said}\n\`\`\``
      const at = text.indexOf(block(simulation.said), textAfter(text, simulation))
      text = text.slice(0, at) + block(printed) + text.slice(at + block(simulation.said).length)
      for (const [path, svg] of pictures) writeFileSync(join(root, path), svg)
    }
    writeFileSync(join(root, page), text)
  }
}

/** Where its command stands, whose lines may be broken. */
function textAfter(text: string, { command }: Simulation): number {
  const found = [...text.matchAll(/npx resilient-llm simulate [^`]+/g)]
    .find(([written]) => written.trim().replaceAll(/\\\n\s*/g, "") === command)
  return found?.index ?? 0
}
