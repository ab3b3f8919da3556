// Traces as text.
import { LlmConfigError } from "../../../LlmError.ts"
import type { TracedCall } from "../../Simulator.ts"

/** Lines of a time and two numbers, below a header. */
export const readCsv = (csv: string): ReadonlyArray<TracedCall> => {
  const [header = "", ...rows] = csv.trimEnd().split("\n")
  if (callOf(header) !== undefined) {
    throw new LlmConfigError({ path: "line 1", rule: "a header, which names the columns", kind: "a call" })
  }
  if (rows.length === 0) throw new LlmConfigError({ path: "line 2", rule: CALL, kind: "missing" })
  const calls = rows.map((row, i): TracedCall => {
    const call = callOf(row)
    if (call !== undefined) return call
    throw new LlmConfigError({
      path: `line ${i + 2}`,
      rule: CALL,
      kind: row.trim() === "" ? "empty" : "another text"
    })
  }).toSorted((a, b) => a.at - b.at)
  const start = calls[0]!.at
  return calls.map(({ at, input, output }) => ({ at: at - start, input, output }))
}

const CALL = "a time, the tokens of the prompt and those of the answer"

const callOf = (row: string): TracedCall | undefined => {
  const [time = "", input, output] = row.split(",").map((cell) => cell.trim())
  const call = { at: momentOf(time), input: tokens(input), output: tokens(output) }
  return Number.isFinite(call.at + call.input + call.output) ? call : undefined
}

const tokens = (text: string | undefined): number => /^\d+$/.test(text ?? "") ? Number(text) : NaN

/** Milliseconds. Seconds may have more decimals than a date takes. */
const momentOf = (text: string): number => {
  if (/^\d+(\.\d*)?$/.test(text)) return Number(text) * 1000
  const [, date, time, fraction = ""] = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d*)?(?:Z|\+00:00)?$/.exec(text) ?? []
  return date === undefined
    ? NaN
    : Date.parse(`${date}T${time}Z`) + Number(`0${fraction === "." ? "" : fraction}`) * 1000
}
