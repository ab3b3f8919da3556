// Traces as text.
import { LlmConfigError } from "../../../LlmError.ts"
import type { TracedCall } from "../../Simulator.ts"

/** Lines of a time and two numbers, below a header. */
export const readCsv = (csv: string): ReadonlyArray<TracedCall> => {
  const rows = csv.trim().split("\n").slice(1)
  const calls = rows.map((row, i): TracedCall => {
    const [time = "", input, output] = row.split(",").map((cell) => cell.trim())
    const call = { at: momentOf(time), input: tokens(input), output: tokens(output) }
    if (!Number.isFinite(call.at + call.input + call.output)) {
      throw new LlmConfigError({
        path: `line ${i + 2}`,
        rule: "a time, the tokens of the prompt and those of the answer",
        kind: row.trim() === "" ? "empty" : "another text"
      })
    }
    return call
  }).toSorted((a, b) => a.at - b.at)
  const start = calls[0]?.at ?? 0
  return calls.map(({ at, input, output }) => ({ at: at - start, input, output }))
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
