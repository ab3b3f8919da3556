// An explanation as text.
import * as Duration from "effect/Duration"
import type { ExplainedFailure, ExplainedMemory, Explanation } from "./explain.ts"

const duration = (millis: number): string => millis === Infinity ? "no limit" : Duration.format(Duration.millis(millis))

const bytes = (count: number): string => count >= 2 ** 20 ? `${Math.round(count / 2 ** 20)} MiB` : `${count} bytes`

const times = (count: number, one: string): string => `${count} ${count === 1 ? one : `${one}s`}`

const WIDTH = 80

/** Broken between names where a line would be too long for a terminal, and then indented. */
const chain = (names: ReadonlyArray<string>, indent = 2): string => {
  const lines: Array<string> = []
  for (const name of names) {
    const longer = `${lines.at(-1)} › ${name}`
    if (lines.length > 0 && indent + longer.length <= WIDTH - 2) lines[lines.length - 1] = longer
    else lines.push(name)
  }
  return lines.join(` ›\n${" ".repeat(indent)}`)
}

const failures: { readonly [K in ExplainedFailure["what"]]: string } = {
  "429": "429 rate limit",
  "503": "503 overload",
  hang: "hang",
  cut: "answer cut",
  "cut-stream": "stream cut",
  quota: "quota used up",
  "bad-key": "bad key",
  "all-down": "unreachable",
  "all-away": "away already"
}

const failure = ({ coolDown, counts, error, failover, retries, stale }: ExplainedFailure): string =>
  chain([
    ...(retries === 0 ? [] : [retries === 1 ? "1 retry" : `${retries} retries`]),
    ...(failover ? ["next target"] : []),
    ...(stale ? ["cache"] : []),
    error
  ]) + (counts ? " (trips)" : "") + (coolDown === undefined || coolDown === 0 ? "" : ` (rests ${duration(coolDown)})`)

const size = ({ bytes: all, count }: ExplainedMemory): string =>
  `${count.toLocaleString("en")}${all === undefined ? "" : ` or ${bytes(all)}`}`

type Row = readonly [name: string, text: string]

const section = (title: string, rows: ReadonlyArray<Row>): ReadonlyArray<string> => {
  const width = Math.max(...rows.map(([name]) => name.length))
  return ["", title, ...rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`)]
}

/** A row only where there is something to say. */
const row = (name: string, millis: number | undefined): ReadonlyArray<Row> =>
  millis === undefined ? [] : [[name, duration(millis)]]

export const rendered = (explanation: Explanation): string => {
  const { attempts, memory, shadow, stages, targets, waits } = explanation
  const widest = Math.max(...targets.map(({ id }) => id.length))
  return [
    "A call passes",
    `  ${chain([...stages, "target"])}`,
    ...(shadow.length === 0 ? [] : ["", "In shadow mode, enforcing nothing", ...shadow.map((name) => `  ${name}`)]),
    ...section(
      "Each attempt on a target passes",
      targets.map(({ guards, id }) => [id, chain([...guards, "provider"], widest + 4)])
    ),
    ...section("One call asks at most", [
      ["all targets", times(attempts, "time")],
      ...targets.map(({ attempts, id }): Row => [id, times(attempts, "time")])
    ]),
    ...section("One call waits at most", [
      ...row("for an answer or a failure", waits.complete),
      ...targets.flatMap(({ id, wait }) => row(`  if only ${id} is asked`, wait)),
      ...targets.flatMap(({ id, line }) => line === 0 ? [] : row(`  in the lines of ${id}, each time`, line)),
      ...row("for the first part of a stream", waits.firstPart),
      ...row("for the next part", waits.silence),
      ...row("for the end of a stream", waits.stream),
      ...row("for a call that has its key", waits.joined),
      ...row("for a Retry-After", waits.hint),
      ...(waits.hintWithOthers === waits.hint ? [] : row("  while another can be asked", waits.hintWithOthers)),
      ...row("for shared stores, besides", waits.stores)
    ]),
    ...section("If every target fails so", explanation.failures.map((told) => [failures[told.what], failure(told)])),
    ...section("Kept in memory at most", memory.map((kept) => [size(kept), kept.what]))
  ].join("\n")
}
