// What an application pays in bytes for an import: minified by rolldown, and gzipped.
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { rolldown } from "rolldown"
import { type Result, result } from "../measure.ts"

const src = fileURLToPath(new URL("../../../src", import.meta.url))

const entries = {
  "a minimal Effect program": `import * as Effect from "effect/Effect"; Effect.runPromise(Effect.succeed(1))`,
  "one pattern: Retry": `export { retry } from "${join(src, "resilience/Retry.ts")}"`,
  "the client": `export { LlmClient } from "${join(src, "index.ts")}"`,
  "the client and OpenAI": `export { LlmClient } from "${join(src, "index.ts")}"
    export { OpenAi } from "${join(src, "providers/OpenAi.ts")}"`,
  "the client and all providers": `export { LlmClient } from "${join(src, "index.ts")}"
    export * from "${join(src, "providers/index.ts")}"`
}

export interface Size {
  readonly minified: number
  readonly gzipped: number
}

export const sizeOf = async (subject: keyof typeof entries): Promise<Size> => {
  const code = entries[subject]
  const bundle = await rolldown({
    input: "entry",
    platform: "neutral",
    plugins: [{
      name: "entry",
      resolveId: (id) => id === "entry" ? join(src, "entry.ts") : undefined,
      load: (id) => id === join(src, "entry.ts") ? code : undefined
    }]
  })
  const { output } = await bundle.generate({ format: "esm", minify: true })
  const text = output.map((chunk) => chunk.type === "chunk" ? chunk.code : "").join("")
  return { minified: Buffer.byteLength(text), gzipped: gzipSync(text, { level: 9 }).length }
}

export const bundle = async (): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  for (const subject of Object.keys(entries) as Array<keyof typeof entries>) {
    const { gzipped, minified } = await sizeOf(subject)
    const of = { group: "bundle", case: "import", subject, unit: "B" }
    results.push(result({ ...of, metric: "minified" }, [minified]), result({ ...of, metric: "gzipped" }, [gzipped]))
  }
  return results
}
