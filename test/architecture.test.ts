// The rooms of the house, held: no arrow upward, nothing internal is public, the composition stays readable.
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { globSync, readFileSync } from "node:fs"
import { dirname, join, normalize } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const source = (file: string): string => readFileSync(join(root, file), "utf8")

/** Who imports whom, types included. */
const imports = new Map(
  globSync("src/**/*.ts", { cwd: root }).map((found) => {
    const file = found.replaceAll("\\", "/")
    const from = [...source(file).matchAll(/^(?:import|export) [^"]*?from "(\.[^"]+)"/gmsu)]
    return [file, from.map(([, path]) => normalize(join(dirname(file), path!)).replaceAll("\\", "/"))] as const
  })
)

/** `file` may import only what `allowed` says; the rest, by name. */
const strangers = (room: RegExp, allowed: RegExp): ReadonlyArray<string> =>
  [...imports].flatMap(([file, others]) =>
    room.test(file) ? others.filter((other) => !allowed.test(other)).map((other) => `${file} → ${other}`) : []
  )

describe("no arrow runs upward", () => {
  const models = /^src\/Llm(Error|Event|Request|Response|Provider|Guard|Config)\.ts$/
  const either = (...all: ReadonlyArray<RegExp>) => new RegExp(all.map(({ source }) => `(${source})`).join("|"))

  it("internal knows errors, events and the words of a request and an answer, and nothing else of ours", () => {
    assert.deepStrictEqual(
      strangers(/^src\/internal\//, either(/^src\/internal\//, /^src\/Llm(Error|Event|Request|Response)\.ts$/)),
      []
    )
  })

  it("a pattern knows neither the pipeline nor the client", () => {
    assert.deepStrictEqual(
      strangers(/^src\/resilience\//, either(/^src\/(internal|resilience|persistence)\//, models)),
      []
    )
  })

  it("the pipeline knows patterns and the ports of state, and nothing above it", () => {
    const below = either(/^src\/(internal|pipeline|resilience)\//, /^src\/persistence\/(Store|Health)\.ts$/, models)
    assert.deepStrictEqual(strangers(/^src\/pipeline\//, below), [])
  })

  it("the composition is asked for by the client alone", () => {
    const askers = [...imports].flatMap(([file, others]) => others.includes("src/Pipeline.ts") ? [file] : [])
    assert.deepStrictEqual(askers, ["src/LlmClient.ts"])
  })

  it("providers do not know the pipeline", () => {
    assert.deepStrictEqual(
      [...imports].flatMap(([file, others]) =>
        file.startsWith("src/providers/")
          ? others.filter((other) => /^src\/(pipeline\/|Pipeline|LlmClient)/.test(other))
          : []
      ),
      []
    )
  })
})

it("the composition is at most 250 lines, and no file of the engine longer than 350", () => {
  const lines = (file: string): number => source(file).split("\n").length - 1
  assert.isAtMost(lines("src/Pipeline.ts"), 250)
  for (const file of imports.keys()) if (file.startsWith("src/pipeline/")) assert.isAtMost(lines(file), 350, file)
})

it("the package exports neither the composition nor the engine", () => {
  const { exports } = JSON.parse(source("package.json")) as { readonly exports: Readonly<Record<string, unknown>> }
  assert.isNull(exports["./Pipeline"])
  assert.isNull(exports["./pipeline/*"])
})

describe("what users can see", () => {
  const out = join(root, ".cache/declarations")
  const tsc = join(root, "node_modules/typescript/bin/tsc")
  execFileSync(process.execPath, [tsc, "-p", ".config/tsconfig.build.json", "--emitDeclarationOnly", "--outDir", out], {
    cwd: root
  })
  const files = globSync("**/*.d.ts", { cwd: out })
    .map((file) => file.replaceAll("\\", "/"))
    .filter((file) => !/(^|\/)(internal|pipeline|cli)\//.test(file) && file !== "Pipeline.d.ts")
  const declarations = files.map((file) => [file, readFileSync(join(out, file), "utf8")] as const)
  /** Without comments. */
  const code = (text: string): string => text.replaceAll(/\/\*.*?\*\//gsu, "").replaceAll(/\/\/.*$/gmu, "")

  it("no member ends in Unsafe", () => {
    const found = declarations.flatMap(([file, text]) =>
      [...code(text).matchAll(/\w+Unsafe\b/gu)].map(([name]) => `${file}: ${name}`)
    )
    assert.isAbove(files.length, 40)
    assert.deepStrictEqual(found, [])
  })

  // A function that returns nothing changes something. Callbacks that users bring are theirs.
  it("nothing that changes state returns no Effect", () => {
    const isCallback =
      /^(on[A-Z]\w*|observe|listener|report|announce|log|publish|release|renew|settle|Listener|failed)$/
    const found = declarations.flatMap(([file, text]) =>
      [...code(text).matchAll(/(?:readonly |const |type )?(\w+)\??(?:: | = )?\([^()]*\)(?: =>|:) void\b/gu)]
        .filter(([, name]) => !isCallback.test(name!))
        .map(([, name]) => `${file}: ${name}`)
    )
    assert.deepStrictEqual(found, [])
  })
})
