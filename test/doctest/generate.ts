/**
 * Turns every fence opened with ```ts import.meta.vitest (JSDoc in src/, README.md, docs/) into one vitest test in
 * .cache/doctest. The code keeps its line numbers, so whatever the type checker or a stack trace says about
 * `.cache/doctest/src/Retry.ts.40.test.ts:47` is true of `src/Retry.ts:47`.
 *
 * A trailing `// => expr` asserts with Effect's structural equality; other code has to type-check and run.
 *
 * The README's other blocks are whole programs, with their file's name in the first line. They are written out to be
 * type-checked with the rest; `test/package` runs them in a project of their own.
 */
import { globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseSync } from "vite"

const root = fileURLToPath(new URL("../..", import.meta.url))
const out = ".cache/doctest"

const header = [
  `import { expect as __expect, test as __test } from "vitest"`,
  `import { equals as __equals } from "effect/Equal"`,
  `const __check = (a: unknown, b: unknown, at: string): void => { if (!__equals(a, b)) __expect(a, at).toEqual(b) }`
].join("; ")

interface Fence {
  readonly file: string
  /** Line of the opening fence; the code starts on the next one. */
  readonly line: number
  readonly code: string
}

interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
}

const isNode = (u: unknown): u is Node => typeof u === "object" && u !== null && "type" in u && "start" in u

/** Every statement an assertion can follow, outermost first. */
const statementsOf = (root: unknown): ReadonlyArray<Node> => {
  const found: Array<Node> = []
  const visit = (u: unknown): void => {
    if (isNode(u) && (u.type === "ExpressionStatement" || u.type === "VariableDeclaration")) found.push(u)
    if (typeof u === "object" && u !== null) { for (const child of Object.values(u)) visit(child) }
  }
  visit(root)
  return found
}

const lineOf = (text: string, offset: number): number => text.slice(0, offset).split("\n").length

/** The fences of one file. `line` counts from 1. */
export const fencesOf = (file: string, text: string): ReadonlyArray<Fence> =>
  [...text.matchAll(
    /^([ \t]*(?:\*[ \t]+)?)```ts import\.meta\.vitest[ \t]*\n([\s\S]*?)^[ \t]*(?:\*[ \t]+)?```[ \t]*$/gm
  )]
    .map((match) => {
      const indent = match[1]!.length
      const lines = match[2]!.split("\n").map((line) =>
        file.endsWith(".ts")
          ? line.replace(/^[ \t]*\* ?/, "").replaceAll("*\\/", "*/")
          : line.slice(Math.min(indent, line.length - line.trimStart().length))
      )
      return { file, line: lineOf(text, match.index), code: lines.join("\n") }
    })

/** The programs of a page: fences without the mark that begin with `// name.ts`, by that name. */
export const programsOf = (text: string): ReadonlyMap<string, string> =>
  new Map(
    [...text.matchAll(/^```ts\n\/\/ (\S+\.ts)\n([^]*?)^```$/gm)].map(([, name = "", code = ""]) => [name, code])
  )

/** The vitest file for one fence. A fence that cannot be used becomes a test that fails and says why. */
export const toTest = ({ code, file, line }: Fence): string => {
  const name = JSON.stringify(`${file}:${line}`)
  const at = (offset: number): string => `${file}:${line + lineOf(code, offset)}`
  const failing = (reason: string): string =>
    `${header}\n__test(${name}, () => { throw new Error(${JSON.stringify(reason)}) })\n`

  const parsed = parseSync("fence.ts", code, { lang: "ts", sourceType: "module", astType: "ts" })
  const error = parsed.errors[0]
  if (error !== undefined) return failing(`${at(error.labels[0]?.start ?? 0)}: ${error.message}`)

  const edits: Array<{ readonly offset: number; readonly remove?: number; readonly text: string }> = []
  let opened = false
  for (const node of parsed.program.body) {
    if (node.type === "ImportDeclaration") {
      if (opened) return failing(`${at(node.start)}: imports come first`)
      continue
    }
    if (!opened) edits.push({ offset: node.start, text: `__test(${name}, async () => { ` })
    opened = true
    if (node.type === "ExportNamedDeclaration" && node.declaration != null) {
      edits.push({ offset: node.start, remove: node.declaration.start - node.start, text: "" })
    } else if (node.type.startsWith("Export")) return failing(`${at(node.start)}: this kind of export cannot be tested`)
  }

  const statements = statementsOf(parsed.program)
  for (const comment of parsed.comments) {
    const expected = /^ ?=>\s*(\S.*)$/.exec(comment.value)?.[1]
    if (comment.type !== "Line" || expected === undefined) continue
    const statement = statements.find((s) =>
      s.end <= comment.start && /^;?[ \t]*$/.test(code.slice(s.end, comment.start))
    )
    const check = `, (${expected}), ${JSON.stringify(at(comment.start))})`
    const source = statement === undefined ? "" : code.slice(statement.start, statement.end).replace(/;\s*$/, "")
    if (statement?.type === "ExpressionStatement") {
      edits.push({ offset: statement.start, text: "__check(" })
      edits.push({ offset: statement.start + source.length, text: check })
    } else if (statement !== undefined) {
      const variable = /^\w+\s+([\w$]+)/.exec(source)?.[1]
      if (variable === undefined) return failing(`${at(comment.start)}: // => needs a plain variable before it`)
      edits.push({ offset: statement.start + source.length, text: `; __check(${variable}${check}` })
    } else return failing(`${at(comment.start)}: // => has no expression before it`)
  }

  let body = ""
  let from = 0
  // Stable: the opening of the test was pushed first and stays in front of a check at the same place.
  for (const edit of edits.toSorted((a, b) => a.offset - b.offset)) {
    body += code.slice(from, edit.offset) + edit.text
    from = edit.offset + (edit.remove ?? 0)
  }
  body += code.slice(from)
  return `${header}${"\n".repeat(line)}${opened ? body : `${body}__test(${name}, async () => {`}\n})\n`
}

/** Writes .cache/doctest anew: what has changed is written, what has no fence any more is removed. */
export const generate = (): number => {
  const files = new Map<string, string>([[
    join(out, "README.ts"),
    "// Written by test/doctest/generate.ts\nexport {}\n"
  ]])
  for (const file of globSync(["src/**/*.ts", "README.md", "docs/**/*.md"], { cwd: root })) {
    const path = file.replaceAll("\\", "/")
    for (const fence of fencesOf(path, readFileSync(join(root, file), "utf8"))) {
      files.set(join(out, `${path}.${fence.line}.test.ts`), toTest(fence))
    }
  }
  for (const [name, code] of programsOf(readFileSync(join(root, "README.md"), "utf8"))) {
    files.set(join(out, "README", name), code)
  }
  for (const stale of globSync(`${out}/**/*.ts`, { cwd: root })) {
    if (!files.has(stale)) rmSync(join(root, stale), { force: true })
  }
  for (const [file, content] of files) {
    const path = join(root, file)
    try {
      if (readFileSync(path, "utf8") === content) continue
    } catch {
      mkdirSync(dirname(path), { recursive: true })
    }
    writeFileSync(path, content)
  }
  return files.size - 1
}

if (process.argv[1] === fileURLToPath(import.meta.url)) generate()
