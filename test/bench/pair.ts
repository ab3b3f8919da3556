// Two versions by turns in one process: `pair.ts <bundle> <bundle> <case>`. Prints the median of the ratios, and what a call
// takes: see against.ts.
import { median } from "./measure.ts"

const ROUNDS = 25
const WARMUP = 10
/** Milliseconds, roughly. */
const TURN = 100

interface Side {
  readonly loop: (name: string, count: number) => Promise<void>
}

const [, , first = "", second = "", name = ""] = process.argv
const sides = [await import(first) as Side, await import(second) as Side] as const
// A turn begins with an empty nursery. Old objects are left alone: a full collection also forgets compiled code.
const collect = globalThis.gc as ((options: { readonly type: "minor" }) => void) | undefined

/** Milliseconds of this thread: not of those that compile and collect beside it. */
const run = async ({ loop }: Side, count: number): Promise<number> => {
  collect?.({ type: "minor" })
  const before = process.threadCpuUsage()
  await loop(name, count)
  const { system, user } = process.threadCpuUsage(before)
  return (system + user) / 1000
}

let count = 64
for (let took = 0; took < TURN / 2; count *= 2) took = Math.max(await run(sides[0], count), await run(sides[1], count))

const times: Array<readonly [number, number]> = []
for (let round = -WARMUP; round < ROUNDS; round++) {
  const isTurned = round % 2 !== 0
  const a = await run(sides[isTurned ? 1 : 0], count)
  const b = await run(sides[isTurned ? 0 : 1], count)
  if (round >= 0) times.push(isTurned ? [b, a] : [a, b])
}
const perCall = (side: 0 | 1): number => median(times.map((time) => time[side])) * 1000 / count
console.log(JSON.stringify({ ratio: median(times.map(([a, b]) => b / a)), other: perCall(0), own: perCall(1) }))
