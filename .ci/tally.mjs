// Prints the last line of .ci/run, `N passed, N failed`, from vitest's own report, and passes its exit code on.
import { readFileSync } from "node:fs"

const [file, code = "1"] = process.argv.slice(2)
let passed = 0
let failed = 0
let skipped = 0
try {
  const report = JSON.parse(readFileSync(file, "utf8"))
  passed = report.numPassedTests
  // A file that could not be loaded, or failed outside its tests, counts as one failure.
  failed = report.numFailedTests +
    report.testResults.filter((r) => r.status === "failed" && !r.assertionResults.some((a) => a.status === "failed"))
      .length
  skipped = report.numPendingTests + report.numTodoTests
} catch {
  console.log("The tests did not get as far as a report (see above).")
}
// Failed without a failed test: types, an unhandled rejection, a crash.
if (failed === 0 && (code !== "0" || passed === 0)) failed = 1
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`)
process.exitCode = failed === 0 ? 0 : Number(code) || 1
