// `npm run bench -- --against <tarball>`: what a call costs here beside another version of this package, packed by
// `npm pack`. Both run the same cases over the same provider in one process, by turns of a tenth of a second; the figure is
// the median of the ratios of CPU time, round by round. Instructions are counted too, see counts.ts: they do not depend on
// who else uses the machine. Here they are those of compiled code, as users run it; those that Node takes to interpret the
// same calls, which weigh each small function much more, come after them.
import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { bundled, compiled, countIn, inFolder } from "./counts.ts"
import { median, start } from "./measure.ts"

const LIVES = 3
const cases = [
  "a text",
  "the text in an object",
  "with temperature and maxTokens",
  "one retry",
  "failover",
  "replay of a key",
  "everything off",
  "a stream of 100 parts"
]

interface Pair {
  readonly ratio: number
  /** Microseconds of CPU per call. */
  readonly other: number
  readonly own: number
}

const timed = async (other: string, own: string, name: string): Promise<Pair> => {
  const { end, read } = start("pair.ts", [other, own, name])
  try {
    return JSON.parse(await read()) as Pair
  } finally {
    end()
  }
}

/** Prints a line for each case. `only`: a part of the names of those that are wanted. */
export const against = (tarball: string, only = "", counts = true): Promise<void> =>
  inFolder(async (folder) => {
    execFileSync("tar", ["xzf", tarball, "-C", folder])
    const other = await bundled(join(folder, "other.mjs"), join(folder, "package/dist/index.js"))
    const own = await bundled(join(folder, "own.mjs"))
    console.log(`${"".padEnd(32)}CPU time                 µs per call       instructions`)
    for (const name of cases) {
      if (!name.includes(only)) continue
      const lives: Array<Pair> = []
      for (let i = 0; i < LIVES; i++) lives.push(await timed(other, own, name))
      const of = (what: keyof Pair): number => median(lives.map((life) => life[what]))
      const spread = lives.map(({ ratio }) => ratio.toFixed(2)).join(" ")
      const times = `${of("other").toFixed(2)} → ${of("own").toFixed(2)}`
      const ratio = async (how?: ReturnType<typeof compiled>): Promise<string> =>
        `${(await countIn(own, name, how) / await countIn(other, name, how)).toFixed(2)}×`
      const counted = counts ? `${await ratio(compiled(name))}, interpreted ${await ratio()}` : ""
      console.log(`${name.padEnd(32)}${of("ratio").toFixed(2)}× (${spread})`.padEnd(57) + times.padEnd(18) + counted)
    }
  })
