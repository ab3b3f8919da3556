// What pages name exists: files, options and their variables, scripts, metrics.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LlmConfig } from "effect-resilient-llm"
import * as Anthropic from "effect-resilient-llm/providers/Anthropic"
import * as Cohere from "effect-resilient-llm/providers/Cohere"
import * as Gemini from "effect-resilient-llm/providers/Gemini"
import * as OpenAi from "effect-resilient-llm/providers/OpenAi"
import { OpenAiCompatible } from "effect-resilient-llm/providers/OpenAiCompatible"
import { globSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { namesIn } from "../../src/internal/configuration.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const read = (file: string): string => readFileSync(`${root}${file}`, "utf8")
const pages = new Map(
  ["README.md", "CHANGELOG.md", ...globSync("docs/*.md", { cwd: root })].map((page) => [page, read(page)])
)

/** The names that are allowed at a place, as the complaint about a wrong one lists them. */
const namesAt = (path: ReadonlyArray<string>): ReadonlyArray<string> => {
  const wrong = path.reduceRight<unknown>((inner, name) => ({ [name]: inner }), { "no such option": 1 })
  const { rule } = Effect.runSync(Effect.flip(LlmConfig.fromJson(wrong)))
  return rule.replace(/^one of /, "").split(", ")
}
const patterns = namesAt([])
const options = new Map(patterns.map((pattern) => [pattern, namesAt([pattern])]))

/** Every match in every page that is not known. */
const unknown = (pattern: RegExp, isKnown: (...groups: ReadonlyArray<string>) => boolean): ReadonlyArray<string> =>
  [...pages].flatMap(([page, text]) =>
    [...text.matchAll(pattern)].filter(([, ...groups]) => !isKnown(...groups)).map(([all]) => `${page}: ${all}`)
  )

describe("pages name", () => {
  it("files that exist", () => {
    const files = globSync(["{src,test,docs}/**/*.{ts,md,json,yml}", "*.md"], { cwd: root })
    assert.deepStrictEqual(
      unknown(
        /`([\w./-]+\.(?:ts|md|yml|json))`/g,
        (name = "") => files.some((file) => `/${file}`.endsWith(`/${name}`))
      ),
      []
    )
  })

  it("options that exist", () => {
    const names = patterns.join("|")
    const has = (pattern = "", option = "") => options.get(pattern)?.includes(option) ?? false
    assert.deepStrictEqual(unknown(new RegExp(`\`(${names})\\.(\\w+)`, "g"), has), [])
    assert.deepStrictEqual(unknown(new RegExp(`\\b(${names}): \\{ (\\w+)[:,]`, "g"), has), [])
  })

  it("variables that exist", () => {
    const variables = new Set(["LLM_STATE", "LLM_TRACES"])
    for (const name of namesIn(LlmConfig.OptionsSchema).values()) variables.add(`LLM_${name}`)
    assert.deepStrictEqual(unknown(/\b(LLM_[A-Z_]*[A-Z])\b/g, (name = "") => variables.has(name)), [])
  })

  it("scripts that exist", () => {
    const { scripts } = JSON.parse(read("package.json")) as { readonly scripts: Readonly<Record<string, string>> }
    assert.deepStrictEqual(unknown(/npm run ([\w:]+)/g, (name = "") => name in scripts), [])
  })

  it("metrics that exist", () => {
    const table = pages.get("docs/metrics.md") ?? ""
    const known = (name = ""): boolean => table.includes(`\`${name.replace(/_(bucket|count|sum)$/, "")}\``)
    assert.deepStrictEqual(
      unknown(
        /\b(llm_[a-z_]+[a-z])\b(?!\.)/g,
        (name = "") => known(name) || /^llm_(records|limits|schema)$/.test(name)
      ),
      []
    )
  })

  it("all patterns, on the page of the options", () => {
    assert.deepStrictEqual(patterns.filter((name) => !pages.get("docs/options.md")?.includes(`| \`${name}\` `)), [])
  })

  it("every room of the house, on the page of the architecture", () => {
    const rooms = globSync("src/*", { cwd: root }).map((path) => path.slice("src/".length)).filter((name) =>
      name !== "index.ts"
    )
    const page = pages.get("docs/architecture.md") ?? ""
    assert.deepStrictEqual(
      rooms.filter((room) => !page.includes(`\n  ${room.endsWith(".ts") ? room : `${room}/`} `)),
      []
    )
  })

  it("every preset and every default model, on the page of the providers", () => {
    const page = pages.get("docs/providers.md") ?? ""
    const presets = Object.keys(OpenAiCompatible.presets)
    assert.deepStrictEqual(presets.filter((name) => !page.includes(`| \`${name}\` `)), [])
    const models = { OpenAi, Anthropic, Gemini, Cohere }
    for (const [vendor, { defaultModel }] of Object.entries(models)) {
      assert.match(page, new RegExp(`\\| \`${vendor}\` [^\n]*\\| \`${defaultModel}\` `))
    }
  })
})
