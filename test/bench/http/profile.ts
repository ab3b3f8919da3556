// One subject's calls under V8's sampling profiler: `profile.ts <url> <subject> <characters> <calls>`. Prints, as a line of
// JSON, microseconds of CPU of one call by stack, outermost first. The profiler's clock also runs while others have the
// processor, so only the shares are its own.
import { Session } from "node:inspector/promises"
import { makers } from "./subjects.ts"

const [, , url = "", subject = "", length = "", calls = ""] = process.argv
const { complete } = await makers[subject]!(url)
const run = async (calls: number): Promise<void> => {
  let left = calls
  await Promise.all(Array.from({ length: 64 }, async () => {
    while (left-- > 0) if ((await complete()).length !== Number(length)) throw new Error("another answer")
  }))
}
const root = new URL("../../../", import.meta.url).href

/** Where a function is: its module below the project, or its package. */
const moduleOf = (url: string): string => {
  if (url === "" || url.startsWith("node:") || url.startsWith("wasm:")) return "node"
  const [, name = url] = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url) ??
    [undefined, url.replace(root, "").replace(/^dist\/(.*)\.js$/, "src/$1.ts")]
  return name
}

await run(Number(calls) / 2) // until it is compiled
const session = new Session()
session.connect()
await session.post("Profiler.enable")
await session.post("Profiler.setSamplingInterval", { interval: 100 })
await session.post("Profiler.start")
const before = process.threadCpuUsage()
await run(Number(calls))
const { system, user } = process.threadCpuUsage(before)
const { profile: { nodes, samples = [], timeDeltas = [] } } = await session.post("Profiler.stop")

const parents = new Map(nodes.flatMap(({ children = [], id }) => children.map((child) => [child, id])))
const frames = new Map(nodes.map(({ callFrame: { functionName, url }, id }) => [
  id,
  `${moduleOf(url)}: ${functionName === "" ? "(anonymous)" : functionName}`
]))
const times: Record<string, number> = {}
for (const [i, sample] of samples.entries()) {
  const stack: Array<string> = []
  for (let id: number | undefined = sample; id !== undefined; id = parents.get(id)) stack.unshift(frames.get(id)!)
  const name = stack.slice(1).join("\n")
  if (!/^node: \((?:idle|program)\)$/.test(name) && !name.endsWith("node: post")) {
    times[name] = (times[name] ?? 0) + timeDeltas[i]!
  }
}
const scale = (system + user) / Number(calls) / Object.values(times).reduce((sum, time) => sum + time, 0)
for (const name of Object.keys(times)) times[name]! *= scale
process.stdout.write(`${JSON.stringify(times)}\n`, () => process.exit(0))
