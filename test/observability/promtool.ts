// Debian's prometheus package, where it is installed. Tests that need it are skipped with a notice where it is not.
import { spawnSync } from "node:child_process"

export const has = (program: "promtool" | "prometheus"): boolean => {
  const found = spawnSync(program, ["--version"]).status === 0
  if (!found) {
    process.stderr.write(`${program} is not installed (Debian: prometheus): tests that need it are skipped.\n`)
  }
  return found
}

/** Exit code and what was printed. */
export const promtool = (
  args: ReadonlyArray<string>,
  input = ""
): { readonly code: number | null; readonly text: string } => {
  const { status, stderr, stdout } = spawnSync("promtool", args, { input, encoding: "utf8" })
  return { code: status, text: `${stdout}${stderr}` }
}
