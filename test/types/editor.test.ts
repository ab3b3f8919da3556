// What an editor shows while somebody writes options: asked of TypeScript's own language server.
import { assert, describe, it } from "@effect/vitest"
import { LlmRequest } from "effect-resilient-llm"
import { open } from "./server.ts"

interface Diagnostic {
  readonly message: string
  readonly severity: number
  readonly range: { readonly start: { readonly line: number } }
}

interface Item {
  readonly label: string
  readonly documentation?: { readonly value: string } | string
}

const before = `import { LlmClient, type LlmEvent } from "../../src/index.ts"
import { ScriptedProvider } from "../../src/testing/index.ts"
import { FetchHttpClient } from "effect/http"
import { Effect, Layer } from "effect"
import { createResilientLlm } from "../../src/promise/index.ts"
import { Anthropic, Cohere, Gemini, Ollama, OpenAi, OpenAiCompatible } from "../../src/providers/index.ts"
import { Bedrock } from "../../src/providers/Bedrock.ts"
class A extends ScriptedProvider.Service<A>()("app/A") {}
declare const client: LlmClient["Service"]
`

const documentationOf = ({ documentation = "" }: Item): string =>
  typeof documentation === "string" ? documentation : documentation.value

/** Completions at the `|` of each text. */
const complete = async (texts: ReadonlyArray<string>) => {
  const marked = before + texts.join("\n")
  const server = await open(marked.replaceAll("|", ""))
  try {
    const found: Array<ReadonlyArray<Item>> = []
    for (const [i, text] of texts.entries()) {
      const position = { line: before.split("\n").length - 1 + i, character: text.indexOf("|") }
      const list = await server.ask<{ readonly items: ReadonlyArray<Item> } | null>("textDocument/completion", {
        textDocument: { uri: server.file },
        position
      })
      // `valueOf` is what `false` has.
      const items = list?.items.filter(({ label }) => label !== "valueOf") ?? []
      found.push(await Promise.all(items.slice(0, 30).map((item) => server.ask<Item>("completionItem/resolve", item))))
    }
    return found
  } finally {
    server.close()
  }
}

/** What is shown at the `|` of each text. */
const hover = async (texts: ReadonlyArray<string>) => {
  const server = await open((before + texts.map((text) => `{ ${text} }`).join("\n")).replaceAll("|", ""))
  try {
    return await Promise.all(texts.map(async (text, i) => {
      const position = { line: before.split("\n").length - 1 + i, character: text.indexOf("|") + 1 }
      const found = await server.ask<{ readonly contents: { readonly value: string } }>("textDocument/hover", {
        textDocument: { uri: server.file },
        position
      })
      return found.contents.value
    }))
  } finally {
    server.close()
  }
}

/** What the compiler says of each text. */
const complain = async (texts: ReadonlyArray<string>) => {
  const server = await open(before + texts.join("\n"))
  try {
    const { items } = await server.ask<{ readonly items: ReadonlyArray<Diagnostic> }>("textDocument/diagnostic", {
      textDocument: { uri: server.file }
    })
    const line = before.split("\n").length - 1
    return texts.map((_, i) =>
      items.filter(({ range, severity }) => severity === 1 && range.start.line === line + i).map(({ message }) =>
        message
      )
    )
  } finally {
    server.close()
  }
}

const mistakes: ReadonlyArray<readonly [text: string, complaint: string]> = [
  // a wrong duration
  [
    "LlmClient.layer([A], { timeout: { deadline: \"20 secs\" } })",
    "Type '\"20 secs\"' is not assignable to type 'false | Input | undefined'."
  ],
  [
    "client.complete({ prompt: \"Hi\", deadline: \"soon\" })",
    "Type '\"soon\"' is not assignable to type 'Input | undefined'."
  ],
  [
    "createResilientLlm({ timeout: { deadline: \"20 secs\" } })",
    "Type '\"20 secs\"' is not assignable to type 'false | Input | undefined'."
  ],
  // an unknown option
  ["LlmClient.layer([A], { timout: {} })", "Did you mean to write 'timeout'?"],
  [
    "LlmClient.make([A], { retry: { maxRetrys: 2 } })",
    "Object literal may only specify known properties, but 'maxRetrys' does not exist in type 'Options'. Did you mean to write 'maxRetries'?"
  ],
  [
    "LlmClient.target(A, { limit: [] })",
    "Object literal may only specify known properties, but 'limit' does not exist in type 'TargetOptions'. Did you mean to write 'limits'?"
  ],
  [
    "client.complete({ prompt: \"Hi\", temprature: 1 })",
    "Object literal may only specify known properties, but 'temprature' does not exist in type 'Input'. Did you mean to write 'temperature'?"
  ],
  [
    "client.complete({ temperature: 1 })",
    "Property 'prompt' is missing in type '{ temperature: number; }' but required in type 'Input'."
  ],
  [
    "createResilientLlm({ providers: { opnai: {} } })",
    "Object literal may only specify known properties, but 'opnai' does not exist in type 'Vendors'. Did you mean to write 'openai'?"
  ],
  // a missing provider
  [
    "Effect.runPromise(Effect.provide(client.complete(\"Hi\"), LlmClient.layer([A])))",
    "Type 'A' is not assignable to type 'never'."
  ],
  [
    "Effect.runPromise(Effect.flatMap(LlmClient, (client) => client.complete(\"Hi\")))",
    "Type 'LlmClient' is not assignable to type 'never'."
  ],
  [
    "Effect.runPromise(Effect.provide(LlmClient, Layer.provide(LlmClient.layer([OpenAi, A]), OpenAi.layerConfig()).pipe(Layer.provide(FetchHttpClient.layer))))",
    "Type 'A' is not assignable to type 'never'."
  ],
  [
    "Effect.runPromise(Effect.provide(LlmClient, Layer.provide(LlmClient.layer([OpenAi]), OpenAi.layerConfig())))",
    "Type 'HttpClient' is not assignable to type 'never'."
  ],
  ["LlmClient.layer([])", "Source has 0 element(s) but target requires 1."],
  ["LlmClient.layer([\"openai\"])", "Type 'string' is not assignable to type 'TargetInput'."]
]

const patterns = [
  "bulkhead",
  "cache",
  "circuitBreaker",
  "failover",
  "guards",
  "hedge",
  "idempotency",
  "loadShedding",
  "rateLimit",
  "retry",
  "retryBudget",
  "routing",
  "timeout"
]
const retry = ["baseDelay", "factor", "jitter", "maxDelay", "maxRetries", "maxRetryAfter", "schedule", "when"]

describe("an editor", () => {
  it("completes the names of patterns and of their options, with their documentation", async () => {
    const found = await complete([
      "LlmClient.layer([A], { | })",
      "LlmClient.make([A], { | })",
      "LlmClient.layerDynamic([null!], { | })",
      "class B extends LlmClient.Class<B>()(\"app/B\", [A], { | }) {}",
      "LlmClient.make([A], { retry: { | } })",
      "LlmClient.make([A], { retry: false, timeout: { attempt: 3, | } })"
    ])
    const labels = found.map((items) => items.map(({ label }) => label.replace("?", "")).toSorted())
    for (const names of labels.slice(0, 4)) assert.deepStrictEqual(names, patterns)
    assert.deepStrictEqual(labels[4], retry)
    assert.deepStrictEqual(labels[5], ["deadline", "firstToken", "idle"])
    for (const item of found.flat()) assert.isAbove(documentationOf(item).length, 20, `${item.label} is documented`)
  })

  it("completes the options of providers, each with its documentation", async () => {
    const common = ["baseUrl", "defaultModel", "headers", "id", "maxBodyBytes", "models"]
    const options: ReadonlyArray<readonly [text: string, names: ReadonlyArray<string>]> = [
      ["OpenAi.layer({ | })", [...common, "api", "apiKey", "encryptedReasoning", "organization", "project"]],
      ["Anthropic.layer({ | })", [...common, "apiKey", "beta", "maxTokens", "version", "vertex"]],
      ["Gemini.make({ | })", [...common, "apiKey", "vertex"]],
      ["Gemini.make({ vertex: { | } })", ["accessToken", "apiVersion", "location", "project"]],
      ["Cohere.layer({ | })", [...common, "apiKey", "clientName"]],
      ["Ollama.layer({ | })", [...common, "apiKey"]],
      ["Bedrock.layer({ | })", [...common, "apiKey", "credentials", "region"]],
      [
        "OpenAiCompatible.layer({ | })",
        [
          ...common,
          "api",
          "apiKey",
          "authHeader",
          "encryptedReasoning",
          "images",
          "maxTokensField",
          "seedField",
          "streamOptions",
          "topK",
          "vendor"
        ]
      ]
    ]
    const found = await complete(options.map(([text]) => text))
    for (const [i, [text, names]] of options.entries()) {
      assert.deepStrictEqual(found[i]!.map(({ label }) => label.replace("?", "")).toSorted(), names.toSorted(), text)
    }
    for (const item of found.flat()) assert.isAbove(documentationOf(item).length, 20, `${item.label} is documented`)
  })

  it("completes the fields of a request, each with its documentation", async () => {
    const found = await complete([
      "client.complete({ | })",
      "client.open({ prompt: \"Hi\", | })",
      "client.generateObject({ | })",
      "createResilientLlm().complete({ | })"
    ])
    const fields = [...Object.keys(LlmRequest.Options.fields), "prompt", "system"].toSorted()
    const labels = found.map((items) => items.map(({ label }) => label.replace("?", "")).toSorted())
    assert.deepStrictEqual(labels[0], fields)
    assert.deepStrictEqual(labels[1], fields.filter((name) => name !== "prompt"))
    const ofObject = fields.filter((name) => name !== "responseFormat")
    assert.deepStrictEqual(labels[2], [...ofObject, "objectName", "repairs", "schema"].toSorted())
    assert.deepStrictEqual(labels[3], fields)
    for (const item of found.flat()) assert.isAbove(documentationOf(item).length, 20, `${item.label} is documented`)
  })

  it("calls events, ledgers and reasons by their names", async () => {
    const texts = [
      ["client.complete(\"Hi\").pipe(Effect.map(({ ledger|: it }) => it))", "LlmEvent.Ledger"],
      ["client.complete(\"Hi\").pipe(Effect.map(({ ledger }) => ledger.map((even|t) => event)))", "LlmEvent.LlmEvent"],
      [
        "declare const event: LlmEvent.LlmEvent; if (event._tag === \"AttemptFailed\") { const faile|d = event }",
        "LlmEvent.AttemptFailed"
      ],
      ["client.complete(\"Hi\").pipe(Effect.catchTag(\"ProviderError\", ({ reason|: it }) => it))", "Reason"]
    ] as const
    const hovers = await hover(texts.map(([text]) => text))
    for (const [i, [text, name]] of texts.entries()) {
      assert.match(hovers[i]!, new RegExp(`: ${name.replace(".", "\\.")}(\\n|$)`), text)
    }
  })

  it("says what is wrong in words that a person understands", async () => {
    const found = await complain(mistakes.map(([text]) => text))
    for (const [i, [text, complaint]] of mistakes.entries()) {
      assert.strictEqual(found[i]!.length, 1, text)
      // What TypeScript says last says what is wrong; before it may stand whole types.
      assert.isTrue(found[i]![0]!.endsWith(complaint), `${text}: ${found[i]![0]}`)
    }
  })
})
