// What one call over HTTP does: its stacks under the sampling profiler, as a chart, and their time by whose code it is.
import { writeFileSync } from "node:fs"
import { OURS } from "../http/subjects.ts"
import { type Result, result, start } from "../measure.ts"
import { asFlame } from "../render.ts"

/** Whose a frame is, by its module. */
export const ownerOf = (frame: string): string => {
  if (frame.startsWith("node: (garbage")) return "collector"
  if (/^(?:undici|node): /.test(frame)) return "undici and Node"
  if (/^(?:effect|@effect)\b/.test(frame)) return "Effect"
  if (frame.startsWith("src/providers/")) return "ours: adapter"
  if (frame.startsWith("src/node/")) return "ours: transport"
  return frame.startsWith("src/") ? "ours: pipeline" : "the benchmark"
}

/** The innermost frame that is not a built-in says whose work it is. */
const workerOf = (stack: ReadonlyArray<string>): string =>
  ownerOf(stack.findLast((frame) => !frame.startsWith("node: ")) ?? stack.at(-1) ?? "")

export const flame = async (isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const server = start("http/server.ts", [])
  const url = `http://127.0.0.1:${await server.read()}/0/1000/1`
  const profile = start("http/profile.ts", [url, OURS, "1000", isQuick ? "500" : "20000"])
  const stacks = Object.entries(JSON.parse(await profile.read()) as Record<string, number>)
    .map(([name, time]) => ({ stack: name.split("\n"), time }))
  server.end()
  const owners = new Map<string, number>()
  for (const { stack, time } of stacks) {
    const isGarbage = stack.at(-1)!.startsWith("node: (garbage")
    const owner = isGarbage ? "collector" : workerOf(stack)
    owners.set(owner, (owners.get(owner) ?? 0) + time)
  }
  if (!isQuick) writeFileSync(new URL("../../../docs/flame.svg", import.meta.url), asFlame(stacks, ownerOf))
  return [...owners].toSorted(([, a], [, b]) => b - a).map(([subject, time]) =>
    result({ group: "flame", case: "one call, 64 at a time", subject, metric: "time", unit: "µs" }, [time])
  )
}
