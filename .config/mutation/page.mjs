// Turns the last report of `npm run mutation` into test/conformance/mutation.md. Every surviving mutant needs a reason in
// test/conformance/survivors.json, and every reason there a survivor.
import { readFileSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const path = (file) => fileURLToPath(new URL(`../../${file}`, import.meta.url))
const read = (file) => JSON.parse(readFileSync(path(file), "utf8"))

const oneLine = (text) => text.replace(/\s+/g, " ").trim()
const cut = (lines, { end, start }) =>
  oneLine(
    lines.slice(start.line - 1, end.line).map((line, i, all) =>
      line.slice(i === 0 ? start.column - 1 : 0, i === all.length - 1 ? end.column - 1 : undefined)
    ).join("\n")
  )
const keyOf = ({ file, from, mutator, to }) => JSON.stringify([file, mutator, from, to])

const scores = []
const survivors = []
for (const [file, { mutants, source }] of Object.entries(read(".cache/mutation/report.json").files).toSorted()) {
  const count = (...statuses) => mutants.filter(({ status }) => statuses.includes(status)).length
  const [killed, timedOut] = [count("Killed"), count("Timeout")]
  const counted = killed + timedOut + count("Survived", "NoCoverage")
  scores.push({ file, counted, killed, timedOut, ignored: count("Ignored") })
  const lines = source.split("\n")
  for (const { location, mutatorName: mutator, replacement, status } of mutants) {
    if (status !== "Survived" && status !== "NoCoverage") continue
    const to = oneLine(replacement ?? "")
    survivors.push({ file, mutator, from: cut(lines, location), to, line: location.start.line })
  }
}

const reasons = read("test/conformance/survivors.json")
const unused = [...reasons]
for (const survivor of survivors) {
  const i = unused.findIndex((reason) => keyOf(reason) === keyOf(survivor))
  if (i >= 0) survivor.because = unused.splice(i, 1)[0].because
}
const unexplained = survivors.filter(({ because }) => because === undefined)
const measured = new Set(scores.map(({ file }) => file))
const stale = unused.filter(({ file }) => measured.has(file))

const table = (head, rows) => {
  const cells = [head, ...rows].map((row) => row.map((cell) => String(cell).replaceAll("|", "\\|")))
  const widths = head.map((_, i) => Math.max(3, ...cells.map((row) => row[i].length)))
  const line = (row) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`
  return [line(cells[0]), line(widths.map((width) => "-".repeat(width))), ...cells.slice(1).map(line)].join("\n")
}
const code = (text) => {
  const short = text.length > 90 ? `${text.slice(0, 87)}...` : text
  return short === "" ? "nothing" : short.includes("`") ? `\`\` ${short} \`\`` : `\`${short}\``
}
const percent = ({ counted, killed, timedOut }) => `${((killed + timedOut) / counted * 100).toFixed(1)} %`
const total = scores.reduce((sum, score) => ({
  file: "all",
  counted: sum.counted + score.counted,
  killed: sum.killed + score.killed,
  timedOut: sum.timedOut + score.timedOut,
  ignored: sum.ignored + score.ignored
}))

writeFileSync(
  path("test/conformance/mutation.md"),
  `# Mutation testing

\`npm run mutation\` changes the patterns and \`LlmError.ts\` in one place after the other and runs the tests that reach the
place. A mutant is killed when a test fails, timed out when a test does not end, and survives when nothing notices.
Written by \`.config/mutation/page.mjs\`; the reasons are in \`survivors.json\`, and a survivor without one is an error.

${
    table(
      ["file", "score", "mutants", "killed", "timed out", "survived", "ignored"],
      [...scores, total].map((score) => [
        score.file,
        percent(score),
        score.counted,
        score.killed,
        score.timedOut,
        score.counted - score.killed - score.timedOut,
        score.ignored
      ])
    )
  }

## Survivors

${
    scores.flatMap(({ file }) => {
      const own = survivors.filter((survivor) => survivor.file === file)
      if (own.length === 0) return []
      const rows = own.map(({ because, from, line, to }) => [line, code(from), code(to), because ?? "**unexplained**"])
      return [`### ${file}\n\n${table(["line", "code", "mutant", "why nothing notices"], rows)}\n`]
    }).join("\n")
  }`
)

for (const { file, from, line, mutator, to } of unexplained) {
  console.error(`${file}:${line} ${mutator}: no reason why nothing notices\n  - ${from}\n  + ${to}`)
}
for (const { file, from, mutator, to } of stale) {
  console.error(`${file} ${mutator}: a reason, but no such survivor\n  - ${from}\n  + ${to}`)
}
console.log(
  `mutation: ${
    percent(total)
  } of ${total.counted} mutants, ${survivors.length} survivors, ${unexplained.length} of them ` +
    `unexplained, ${stale.length} reasons without a survivor`
)
process.exitCode = unexplained.length + stale.length === 0 ? 0 : 1
