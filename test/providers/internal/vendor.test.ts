// What is said of wrong options of providers: where, by which rule, and of which kind; never the value.
import { assert, describe, it } from "@effect/vitest"
import { LlmConfigError } from "effect-resilient-llm/LlmError"
import type { LlmProvider } from "effect-resilient-llm/LlmProvider"
import { Anthropic, Cohere, Gemini, Ollama, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Redacted from "effect/Redacted"
import { apiKey, ask, serve } from "../support.ts"

type Make = (options: never) => Effect.Effect<LlmProvider, LlmConfigError, HttpClient.HttpClient>
type Row = readonly [make: Make, options: object | undefined, path: string, rule: string, kind: string]

const SECRET = "SECRET"
const address = "an http or https URL"
const clean = "a text without line breaks"
const key = "a key without blanks and line breaks"
const keys = "keys with accessKeyId and a Redacted secretAccessKey"

const unsafe = (error: LlmConfigError): boolean => `${error.message}${JSON.stringify(error)}`.includes(SECRET)

/** What is wrong with one option, with all others right. */
const rows = (make: Make, at: string, valid: object, wrong: ReadonlyArray<readonly [object, ...Told]>) =>
  wrong.map(([options, path, rule, kind]): Row => [make, { ...valid, ...options }, `${at}${path}`, rule, kind])
type Told = readonly [path: string, rule: string, kind: string]

const keyed = (required: boolean): ReadonlyArray<readonly [object, ...Told]> => [
  ...required ? [[{ apiKey: undefined }, ".apiKey", "a Redacted text", "missing"]] as const : [],
  [{ apiKey: SECRET }, ".apiKey", "a Redacted text", "a text"],
  [{ apiKey: null }, ".apiKey", "a Redacted text", "null"],
  [{ apiKey: Redacted.make("") }, ".apiKey", key, "an empty text"],
  [{ apiKey: Redacted.make(` ${SECRET} ${SECRET} `) }, ".apiKey", key, "a text"],
  [{ apiKey: Redacted.make(`${SECRET}\r\nx: y`) }, ".apiKey", key, "a text"],
  [{ apiKey: Redacted.make(7) }, ".apiKey", key, "a whole number"]
]

const common: ReadonlyArray<readonly [object, ...Told]> = [
  [{ id: "" }, ".id", clean, "an empty text"],
  [{ id: `${SECRET}\n` }, ".id", clean, "a text"],
  [{ id: 5 }, ".id", clean, "a whole number"],
  [{ baseUrl: SECRET }, ".baseUrl", address, "a text"],
  [{ baseUrl: `file:///${SECRET}` }, ".baseUrl", address, "a text"],
  [{ baseUrl: 1 }, ".baseUrl", address, "a whole number"],
  [{ defaultModel: " " }, ".defaultModel", clean, "a text"],
  [{ models: 1 }, ".models", "a map of model names", "a whole number"],
  [{ models: null }, ".models", "a map of model names", "null"],
  [{ models: { fast: "" } }, ".models.fast", "a model name", "an empty text"],
  [{ models: { fast: 1.5 } }, ".models.fast", "a model name", "a fraction"],
  [{ headers: SECRET }, ".headers", "a map of headers", "a text"],
  [{ headers: { a: `${SECRET}\n` } }, ".headers.a", "a header value", "a text"],
  [{ headers: { "x-a": Redacted.make(`${SECRET}\n`) } }, ".headers.x-a", "a header value", "a text"],
  [{ headers: { a: true } }, ".headers.a", "a header value", "a boolean"],
  [{ maxBodyBytes: 1023 }, ".maxBodyBytes", "a whole number of at least 1024", "a whole number"],
  [{ maxBodyBytes: "1 MiB" }, ".maxBodyBytes", "a whole number of at least 1024", "a text"],
  [{ maxBodyBytes: NaN }, ".maxBodyBytes", "a whole number of at least 1024", "not a number"]
]

const names = "id, baseUrl, defaultModel, models, headers, maxBodyBytes, "
const unknown = (others: string): readonly [object, ...Told] => [
  { other: SECRET },
  ".other",
  `one of ${names}${others}`,
  "an unknown option"
]

const token = Redacted.make("token")
const vertex = { project: "p", location: "global", accessToken: token }
const inVertex: ReadonlyArray<readonly [object, ...Told]> = ([
  [{ project: `${SECRET}/../x` }, ".project", "the identifier of a project", "a text"],
  [{ project: undefined }, ".project", "the identifier of a project", "missing"],
  [{ location: "secret.test/" }, ".location", "the name of a region", "a text"],
  [{ apiVersion: "" }, ".apiVersion", "a version such as v1", "an empty text"],
  [{ accessToken: undefined }, ".accessToken", "a Redacted text", "missing"],
  [{ accessToken: SECRET }, ".accessToken", "a Redacted text", "a text"],
  [{ accessToken: Redacted.make(`${SECRET}\n:`) }, ".accessToken", key, "a text"],
  [{ publisher: SECRET }, ".publisher", "one of project, location, accessToken, apiVersion", "an unknown option"]
] as const).map(([options, path, rule, kind]) => [
  { apiKey: undefined, vertex: { ...vertex, ...options } },
  `.vertex${path}`,
  rule,
  kind
])
const either: readonly [object, ...Told] = [
  { vertex },
  ".apiKey",
  "absent when vertex is given",
  "an object"
]

const chats = "one of chat, responses"
const truth = "true or false"

const all: ReadonlyArray<Row> = [
  ...rows(OpenAi.make, "openAi", { apiKey }, [
    ...keyed(true),
    ...common,
    unknown("apiKey, api, encryptedReasoning, organization, project"),
    [{ api: "SECRET" }, ".api", chats, "a text"],
    [{ encryptedReasoning: 1 }, ".encryptedReasoning", truth, "a whole number"],
    [{ organization: `${SECRET}\n` }, ".organization", clean, "a text"],
    [{ project: {} }, ".project", clean, "an object"]
  ]),
  ...rows(OpenAiCompatible.make, "openAiCompatible", { baseUrl: "http://x/v1" }, [
    ...keyed(false),
    ...common,
    unknown(
      "apiKey, api, authHeader, maxTokensField, seedField, streamOptions, images, topK, vendor, encryptedReasoning"
    ),
    [{ baseUrl: undefined }, ".baseUrl", address, "missing"],
    [{ api: "SECRET" }, ".api", chats, "a text"],
    [{ authHeader: " " }, ".authHeader", clean, "a text"],
    [{ maxTokensField: "SECRET" }, ".maxTokensField", "one of max_tokens, max_completion_tokens", "a text"],
    [{ seedField: "SECRET" }, ".seedField", "one of seed, random_seed", "a text"],
    [{ streamOptions: null }, ".streamOptions", truth, "null"],
    [{ images: "yes" }, ".images", truth, "a text"],
    [{ topK: 0 }, ".topK", truth, "zero"],
    [{ vendor: "a\nb" }, ".vendor", clean, "a text"],
    [{ encryptedReasoning: 1 }, ".encryptedReasoning", truth, "a whole number"]
  ]),
  ...rows(Anthropic.make, "anthropic", { apiKey }, [
    ...keyed(true),
    ...common,
    ...inVertex,
    either,
    unknown("apiKey, vertex, maxTokens, version, beta"),
    [{ apiKey: undefined, vertex: SECRET }, ".vertex", "an object of options", "a text"],
    [{ maxTokens: 0 }, ".maxTokens", "a whole number of at least 1", "zero"],
    [{ version: "" }, ".version", clean, "an empty text"],
    [{ beta: ["SECRET\n"] }, ".beta", "a list of feature names", "an array"],
    [{ beta: SECRET }, ".beta", "a list of feature names", "a text"]
  ]),
  ...rows(Gemini.make, "gemini", { apiKey }, [
    ...keyed(true),
    ...common,
    ...inVertex,
    either,
    unknown("apiKey, vertex"),
    [{ apiKey: undefined, vertex: SECRET }, ".vertex", "an object of options", "a text"]
  ]),
  ...rows(Cohere.make, "cohere", { apiKey }, [
    ...keyed(true),
    ...common,
    unknown("apiKey, clientName"),
    [{ clientName: `${SECRET}\n` }, ".clientName", clean, "a text"]
  ]),
  ...rows(Ollama.make, "ollama", {}, [...keyed(false), ...common, unknown("apiKey")]),
  ...rows(Bedrock.make, "bedrock", { apiKey, region: "eu-central-1" }, [
    ...keyed(false),
    ...common,
    unknown("region, apiKey, credentials"),
    [{ region: undefined }, ".region", "the name of a region", "missing"],
    [{ region: `${SECRET}/` }, ".region", "the name of a region", "a text"],
    [{ credentials: { accessKeyId: SECRET } }, ".credentials", keys, "an object"],
    [{ apiKey: undefined }, ".credentials", keys, "missing"],
    [
      { apiKey: undefined, credentials: { accessKeyId: "A", secretAccessKey: SECRET } },
      ".credentials",
      keys,
      "an object"
    ],
    [
      { credentials: { accessKeyId: "A", secretAccessKey: Redacted.make(SECRET) } },
      ".credentials",
      "absent when apiKey is given",
      "an object"
    ]
  ]),
  [OpenAi.make, [SECRET], "openAi", "an object of options", "an array"],
  [OpenAi.make, undefined, "openAi.apiKey", "a Redacted text", "missing"],
  [OpenAi.make, {}, "openAi.apiKey", "a Redacted text", "missing"],
  [OpenAiCompatible.make, {}, "openAiCompatible.baseUrl", address, "missing"],
  [Gemini.make, {}, "gemini.apiKey", "a Redacted text", "missing"],
  [Bedrock.make, { apiKey }, "bedrock.region", "the name of a region", "missing"]
]

describe("options of providers", () => {
  const transport = serve({ status: 400 })
  const made = (make: Make, options: object | undefined) =>
    Effect.provideService(make(options as never), HttpClient.HttpClient, transport.client)

  for (const [i, [make, options, path, rule, kind]] of all.entries()) {
    it.effect(`${i}: ${path} must be ${rule}, but is ${kind}`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(made(make, options))
        assert.instanceOf(error, LlmConfigError)
        assert.deepStrictEqual([error.path, error.rule, error.kind], [path, rule, kind])
        assert.isFalse(unsafe(error))
      }))
  }

  it("are all in the table", () => {
    const wrong = new Set(all.map(([, , path]) => path))
    for (const [, , path, rule, kind] of all) {
      if (kind !== "an unknown option") continue
      const above = path.slice(0, path.lastIndexOf("."))
      for (const name of rule.replace("one of ", "").split(", ")) assert.isTrue(wrong.has(`${above}.${name}`), name)
    }
  })

  it.effect("a key is sent without the blanks around it, headers by their lower case, the hash of an address not", () =>
    Effect.gen(function*() {
      const provider = yield* made(OpenAi.make, {
        apiKey: Redacted.make(" \tkey-1\n"),
        baseUrl: "https://one.test/v1//?a=b#c",
        headers: { "X-One": "1", "X-Two": Redacted.make("2") }
      })
      yield* Effect.flip(provider.generate(ask))
      const { request, url } = transport.sent[0]!
      assert.strictEqual(url, "https://one.test/v1/chat/completions?a=b")
      assert.deepInclude(request.headers, { authorization: "Bearer key-1", "x-one": "1", "x-two": "2" })
    }))
})
