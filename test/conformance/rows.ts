// Which test holds which row of the semantics? `node test/conformance/rows.ts` prints the list; rows.test.ts fails when a
// row has no test. A test belongs to a row when its name starts with the row's id.
import { globSync, readFileSync } from "node:fs"
import { dirname, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"

/** The tables: letter, what it is about, how many rows it has. */
export const tables = {
  R: ["retry", 22],
  B: ["retry budget", 11],
  T: ["timeouts and deadlines", 14],
  C: ["circuit breaker", 26],
  L: ["rate limiter", 25],
  H: ["hedging", 12],
  F: ["failover", 14],
  I: ["idempotency", 14],
  A: ["cache", 15],
  K: ["bulkhead", 15],
  S: ["load shedding", 10],
  X: ["chaos", 10],
  W: ["shadow mode", 5],
  M: ["telemetry and alerts", 10],
  E: ["all patterns together", 15]
} as const satisfies Record<string, readonly [string, number]>

/** Rows without a test of their own, and why. */
export const outOfScope: Readonly<Record<string, string>> = {}

export const rows: ReadonlyArray<string> = Object.entries(tables).flatMap(([letter, [, count]]) =>
  Array.from({ length: count }, (_, i) => `${letter}${i + 1}`)
)

export interface Named {
  readonly file: string
  readonly name: string
}

const here = fileURLToPath(import.meta.url)
const root = resolve(dirname(here), "../..")

/** Texts that start with an id, as names of tests and of table rows do: `R12 …`, `R5, R16 …`, `R9–R12 …`. */
const titles = /["'`]((?:[A-Z]\d+(?:[,–] ?)?)+)(?=[ (:"'`])([^"'`\n]*)/g

const idsOf = (list: string): ReadonlyArray<string> =>
  list.split(/, ?/).flatMap((part) => {
    const [, letter, first, last] = /^([A-Z])(\d+)(?:–[A-Z]?(\d+))?$/.exec(part.trim()) ?? []
    if (letter === undefined || first === undefined) return []
    const from = Number(first)
    return Array.from({ length: Number(last ?? from) - from + 1 }, (_, i) => `${letter}${from + i}`)
  })

/** The tests of each row. */
export const testsByRow = (): ReadonlyMap<string, ReadonlyArray<Named>> => {
  const found = new Map<string, Array<Named>>(rows.map((row) => [row, []]))
  for (
    const path of globSync(
      "test/{conformance,internal,pipeline,resilience,providers,observability,testing}/**/*.test.ts",
      {
        cwd: root
      }
    )
      .toSorted()
  ) {
    if (path.endsWith("rows.test.ts")) continue
    const source = readFileSync(resolve(root, path), "utf8")
    for (const [, ids, rest] of source.matchAll(titles)) {
      for (const id of idsOf(ids!)) found.get(id)?.push({ file: relative("test", path), name: `${ids}${rest}` })
    }
  }
  return found
}

if (process.argv[1] === here) {
  for (const [row, tests] of testsByRow()) {
    const held = tests.map(({ file, name }) => `  ${file}: ${name}`)
    process.stdout.write(`${[row, ...(held.length > 0 ? held : [`  - ${outOfScope[row] ?? "NO TEST"}`])].join("\n")}\n`)
  }
}
