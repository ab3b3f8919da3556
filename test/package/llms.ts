// LLMS.md: the whole public API on one page, for coding agents. `npm run llms` writes it from what the sources say: the
// programs of the README, the exports with their documentation and types, and one example of each module. And the list of
// all options in docs/options.md.
import { globSync, readFileSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { type ESTree, parseSync } from "vite"
import { namesIn } from "../../src/internal/configuration.ts"
import { OptionsSchema } from "../../src/LlmConfig.ts"
import { fencesOf, programsOf } from "../doctest/generate.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const read = (file: string): string => readFileSync(join(root, file), "utf8")
const name = "effect-resilient-llm"

const intro = `# ${name}, for coding agents

Written by \`npm run llms\`; a test fails when this page is stale. What it is and why: README.md. Details: docs/.

- Effect 4.1 and this package's own types are the reference; much of Effect 3 has moved. There is no \`@effect/platform\` and no
  \`@effect/schema\`: \`effect/http\`, \`effect/Schema\`, \`effect/ai\`.
- Prompts, tools and parts of answers are those of \`effect/ai\` in their encoded form: plain JSON.
- Make a client's layer once and keep it: breakers, buckets and caches live in it. Never build one per call.
- Options: absent = the default, \`false\` = off, an object = on with these settings. Durations are \`"20 seconds"\` or milliseconds.
- Do not add retries, timeouts or fallbacks round a call: the pipeline is their only owner. Set \`deadline\` instead.
- Failures are tagged (\`Effect.catchTag\`); those of a pattern that is off are not in the type.
- A stale answer may stand in for a failure: look at \`response.source\`, or say \`cache: "no-stale"\`.
- Tests need no network: \`ScriptedProvider\` and \`TestClock\`, or \`FaultServer\` for real HTTP.
`

/** A description without tags, examples and sections: its first paragraph on one line. */
const paragraph = (doc: string): string =>
  (doc.split(/\n\s*\n|(?:^|\s)@|\n\*\*/)[0] ?? "").replaceAll(/\{@link ([^}]+)\}/g, "`$1`").replaceAll(/\s+/g, " ")
    .trim()

const sentence = (doc: string): string => /^.*?\.(?=\s|$)/.exec(paragraph(doc))?.[0] ?? paragraph(doc)

const MAX_SIGNATURE = 320

/** What one module exports, a line each, with the members of what is written as an interface. */
const exportsOf = (code: string): ReadonlyArray<string> => {
  const { comments, program } = parseSync("module.ts", code, { lang: "ts", sourceType: "module", astType: "ts" })
  const docs = comments.filter(({ type, value }) => type === "Block" && value.startsWith("*"))
  const docBefore = (node: ESTree.Node): string => {
    const doc = docs.findLast(({ end }) => end <= node.start && /^\s*$/.test(code.slice(end, node.start)))
    return doc === undefined ? "" : doc.value.slice(1).replaceAll(/^[ \t]*\* ?/gm, "").trim()
  }
  const textOf = (from: number, to: number): string =>
    code.slice(from, to).replaceAll(/\/\*[^]*?\*\/|\/\/.*$/gm, "").replaceAll(/\s+/g, " ").trim()
  const line = (text: string, doc: string, depth = ""): string => {
    const said = depth === "" ? sentence(doc) : paragraph(doc)
    return `${depth}- \`${text}\`${said === "" ? "" : ` ${said}`}`
  }
  const short = (text: string, otherwise: string): string => text.length > MAX_SIGNATURE ? otherwise : text

  const constants = new Map(
    program.body.flatMap((node) => {
      const declaration = node.type === "ExportNamedDeclaration" ? node.declaration : node
      if (declaration?.type !== "VariableDeclaration") return []
      return declaration.declarations.map(({ id, init }) => [id.type === "Identifier" ? id.name : "", init] as const)
    })
  )
  /** The object of fields in `Schema.Struct({ … })`, `Schema.TaggedStruct("A", { … })` or `Schema.TaggedError…("A", { … })`. */
  const fieldsOf = (value: ESTree.Expression | null | undefined): ReadonlyArray<string> => {
    if (value?.type === "CallExpression") {
      if (!/^Schema\.(Tagged)?(Struct|Error)\b/.test(code.slice(value.start, value.end))) return []
      return fieldsOf(value.arguments.find((argument) => argument.type === "ObjectExpression"))
    }
    if (value?.type !== "ObjectExpression") return []
    return value.properties.flatMap((property) => {
      if (property.type === "SpreadElement") {
        return property.argument.type === "Identifier" ? fieldsOf(constants.get(property.argument.name)) : []
      }
      const key = textOf(property.key.start, property.key.end)
      const text = textOf(property.value.start, property.value.end)
      const [, optional] = /^Schema\.optional(?:Key)?\((.*)\)$/.exec(text) ?? []
      const type = (optional ?? text).replace(/\.(check|annotate)\(.*$/, "").replaceAll("Schema.", "").trim()
      const mark = optional === undefined ? "" : "?"
      return [
        line(type.length > 60 || type === key ? `${key}${mark}` : `${key}${mark}: ${type}`, docBefore(property), "  ")
      ]
    })
  }

  return program.body.flatMap((node): ReadonlyArray<string> => {
    if (node.type !== "ExportNamedDeclaration" || node.declaration == null) return []
    const { declaration } = node
    const doc = docBefore(node)
    if (/@internal/.test(doc)) return []
    switch (declaration.type) {
      case "TSInterfaceDeclaration": {
        const head = textOf(declaration.start, declaration.body.start)
        // What the schema of that name has said already.
        if (/^interface (\w+) extends Schema\.Schema\.Type<typeof \1>$/.test(head.trim())) return []
        return [line(short(head, `interface ${declaration.id.name}`), doc)].concat(
          declaration.body.body.flatMap((member) => {
            if (/@internal/.test(docBefore(member))) return []
            const text = textOf(member.start, member.end).replace(/^readonly /, "").replace(/ \| undefined;?$/, "")
            return line(short(text, `${text.split(":")[0]}`), docBefore(member), "  ")
          })
        )
      }
      case "TSTypeAliasDeclaration": {
        const text = textOf(declaration.start, declaration.end)
        const isSchema = /^type (\w+) = typeof \1\.Type$/.test(text)
        return isSchema ? [] : [line(short(text, `type ${declaration.id.name}`), doc)]
      }
      case "ClassDeclaration":
        return [line(`class ${declaration.id?.name ?? ""}`, doc)].concat(
          fieldsOf(declaration.superClass),
          declaration.body.body.flatMap((member) => {
            if (member.type !== "MethodDefinition" && member.type !== "TSAbstractMethodDefinition") return []
            const said = docBefore(member)
            if (!member.static || said === "" || /@internal/.test(said)) return []
            const until = member.value.body?.start ?? member.end
            const text = textOf(member.start, until)
            return [line(short(text, textOf(member.key.start, member.key.end)), said, "  ")]
          })
        )
      case "FunctionDeclaration":
        return [
          line(
            short(
              textOf(declaration.start, declaration.body?.start ?? declaration.end),
              `function ${declaration.id?.name ?? ""}`
            ),
            doc
          )
        ]
      case "VariableDeclaration":
        return declaration.declarations.flatMap((one) => {
          const { id, init } = one
          const named = id.type === "Identifier" ? id.name : ""
          const annotated = id.type === "Identifier" && id.typeAnnotation != null
          const head = annotated
            ? textOf(id.start, id.end)
            : init?.type === "ArrowFunctionExpression"
            ? `${named}: ${textOf(init.start, init.body.start).replace(/ ?\(?$/, "")}`.replace(/=>$/, "").trim()
            : named
          return [line(short(head, named), doc)].concat(fieldsOf(init))
        })
      default:
        return []
    }
  })
}

/** `import` line of each public module, the entry of a folder first. */
const importOf = (path: string): string => {
  const folder = dirname(path)
  const entry = folder === "." ? name : `${name}/${folder}`
  const module = basename(path)
  if (module === "index") return `import { … } from "${entry}"`
  const index = read(join("src", folder, "index.ts"))
  return new RegExp(`export (?:\\* as ${module}|\\{ ${module} \\}) from`).test(index)
    ? `import { ${module} } from "${entry}"`
    : `import * as ${module} from "${name}/${path}"`
}

export const render = (): string => {
  const paths = globSync("src/**/*.ts", { cwd: root })
    .map((file) => file.replaceAll("\\", "/").slice("src/".length, -".ts".length))
    .filter((path) => !/(^|\/)internal\//.test(path) && !/^(cli|pipeline)\//.test(path) && path !== "Pipeline")
  const order = ["", "promise", "ai-sdk", "node", "providers", "resilience", "persistence", "observability", "testing"]
  const place = (path: string): number => order.indexOf(path.includes("/") ? dirname(path) : "")
  const modules = paths.toSorted((a, b) => place(a) - place(b) || (a < b ? -1 : 1)).flatMap((path) => {
    const file = `src/${path}.ts`
    const code = read(file)
    const lines = exportsOf(code)
    if (lines.length === 0) return []
    const [about = ""] = /^\/\*\*([^]*?)\*\//.exec(code)?.slice(1) ?? []
    const example = fencesOf(file, code)[0]
    return [
      `## \`${importOf(path)}\`\n\n${paragraph(about.replaceAll(/^[ \t]*\* ?/gm, "").trim())}\n\n${
        lines.join("\n")
      }\n` +
      (example === undefined ? "" : `\n\`\`\`ts\n${example.code.trim()}\n\`\`\`\n`)
    ]
  })
  const programs = [...programsOf(read("README.md"))].map(([file, code]) => `\`\`\`ts\n// ${file}\n${code}\`\`\`\n`)
  return [intro, `## Programs\n\n${programs.join("\n")}`, ...modules].join("\n")
}

// -----------------------------------------------------------------------------
// docs/options.md
// -----------------------------------------------------------------------------

/** `below`: which of the pattern's options the interface is of. */
type Source = readonly [module: string, interfaceName: string, below?: string]

const patterns: Readonly<Record<string, ReadonlyArray<Source>>> = {
  idempotency: [["LlmConfig", "IdempotencyOptions"], ["resilience/Idempotency", "Settings"]],
  rateLimit: [["resilience/RateLimiter", "Options"], ["resilience/RateLimiter", "Limit", "limits[0]"]],
  circuitBreaker: [["resilience/CircuitBreaker", "Rules"], ["LlmConfig", "CircuitBreakerOptions"]],
  timeout: [["resilience/Timeout", "Options"]],
  retry: [["resilience/Retry", "Options"]],
  retryBudget: [["resilience/RetryBudget", "Options"]],
  failover: [["resilience/Failover", "Options"]],
  cache: [["LlmConfig", "CacheOptions"], ["resilience/ResponseCache", "Settings"]],
  bulkhead: [["resilience/Bulkhead", "Options"], ["resilience/AdaptiveConcurrency", "Options", "adaptive"]],
  hedge: [["resilience/Hedge", "Options"]],
  loadShedding: [
    ["resilience/LoadShedder", "Options"],
    ["resilience/LoadShedder", "ThrottleOptions", "throttle"],
    ["resilience/LoadShedder", "Thresholds", "thresholds"]
  ],
  routing: [["resilience/Routing", "Options"]],
  "targets[0]": [["pipeline/target", "TargetOptions"]]
}

const variables = namesIn(OptionsSchema)

const optionsIn = (pattern: string, [module, interfaceName, below]: Source): ReadonlyArray<string> => {
  const lines = exportsOf(read(`src/${module}.ts`))
  const start = lines.findIndex((line) => new RegExp(`^- \`interface ${interfaceName}\\b`).test(line)) + 1
  const end = lines.findIndex((line, i) => i >= start && !line.startsWith("  "))
  return lines.slice(start, end < 0 ? undefined : end).map((line) => {
    const [, option = "", said = ""] = /^ {2}- `(\w+).*?` ([^`]*(?:`[^`]*`[^`]*)*)$/.exec(line) ?? []
    const name = below === undefined ? option : `${below}.${option}`
    const path = `${pattern}.${name}`
    const hasLines = patterns[pattern]!.some(([, , below]) => below === option)
    const own = [...variables].flatMap(([name, variable]) =>
      name === path || (!hasLines && name.startsWith(`${path}.`)) ? [`\`LLM_${variable}\``] : []
    )
    return `- \`${name}\`${own.length === 0 ? "" : ` (${own.join(", ")})`}: ${said}`
  })
}

const ownOf = (pattern: string): string => variables.has(pattern) ? ` (\`LLM_${variables.get(pattern)}\`)` : ""

const ALL = "## All options\n"

/** The page as it is, with the list at its end as the sources have it. */
export const optionsPage = (): string => {
  const page = read("docs/options.md")
  const lists = Object.entries(patterns).map(([pattern, interfaces]) =>
    `### \`${pattern}\`${ownOf(pattern)}\n\n${interfaces.flatMap((one) => optionsIn(pattern, one)).join("\n")}\n`
  )
  const head = page.indexOf(`\n${ALL}`) + 1
  return `${page.slice(0, head)}${ALL}
From the documentation of the interfaces, by \`npm run llms\`. In brackets the variables that \`LlmConfig.config\` reads; a
pattern's own can only turn it off: \`LLM_HEDGE=false\`. What has none is set in code, entries of \`limits\` also in the JSON of
their variable.

${lists.join("\n")}`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(join(root, "LLMS.md"), render())
  writeFileSync(join(root, "docs/options.md"), optionsPage())
}
