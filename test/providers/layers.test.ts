import { assert, describe, it } from "@effect/vitest"
import { LlmClient, LlmPool } from "effect-resilient-llm"
import { LlmConfigError } from "effect-resilient-llm/LlmError"
import type { LlmProvider } from "effect-resilient-llm/LlmProvider"
import { Anthropic, Cohere, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { apiKey, ask, serve } from "./support.ts"

class OpenAiEu extends OpenAi.Service<OpenAiEu>()("app/OpenAiEu") {}
class Local extends OpenAiCompatible.Service<Local>()("app/Local") {}

const http = (transport = serve({ status: 400 })) => Layer.succeed(HttpClient.HttpClient, transport.client)
const env = (variables: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables))

type Http = HttpClient.HttpClient
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const proven = <T extends true>(): T | undefined => undefined

describe("layers", () => {
  it("types are precise", () => {
    const eu = OpenAiEu.layer({ apiKey })
    proven<Equal<typeof eu, Layer.Layer<OpenAiEu, LlmConfigError, Http>>>()
    const configured = OpenAiEu.layerConfig()
    proven<Equal<typeof configured, Layer.Layer<OpenAiEu, LlmConfigError | Config.ConfigError, Http>>>()
    const own = OpenAi.layer({ apiKey })
    proven<Equal<typeof own, Layer.Layer<OpenAi, LlmConfigError, Http>>>()
    // @ts-expect-error a layer of one tag is not a layer of another
    const wrong: Layer.Layer<OpenAi, LlmConfigError, Http> = OpenAiEu.layer({ apiKey })
    assert.isTrue(Layer.isLayer(wrong))
    const service = Effect.gen(function*() {
      const provider: LlmProvider = yield* OpenAiEu
      return provider.id
    })
    proven<Equal<typeof service, Effect.Effect<string, never, OpenAiEu>>>()
    const keys: ReadonlyArray<Context.Key<OpenAi, LlmProvider> | Context.Key<OpenAiEu, LlmProvider>> = [
      OpenAi,
      OpenAiEu
    ]
    assert.deepStrictEqual(keys.map((key) => key.key), ["effect-resilient-llm/OpenAi", "app/OpenAiEu"])
    // @ts-expect-error the key is required
    assert.isTrue(Layer.isLayer(OpenAi.layer({})))
    // @ts-expect-error the key must be redacted
    assert.isTrue(Layer.isLayer(OpenAi.layer({ apiKey: "plain" })))
    // @ts-expect-error unknown options are refused
    assert.isTrue(Layer.isLayer(OpenAi.layer({ apiKey, maxTokens: 1 })))
    // @ts-expect-error the address is required
    assert.isTrue(Layer.isLayer(Local.layer({})))
  })

  it.effect("each tag has a provider of its own", () =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      const live = Layer.mergeAll(
        OpenAi.layer({ apiKey }),
        OpenAiEu.layer({ apiKey, id: "openai-eu", baseUrl: "https://eu.test/v1", models: { fast: "gpt-x" } }),
        Anthropic.layer({ apiKey }),
        Cohere.layer({ apiKey }),
        Local.layer({ baseUrl: "http://localhost:1/v1" })
      ).pipe(Layer.provide(http(transport)))
      const providers = yield* Effect.all([OpenAi, OpenAiEu, Anthropic, Cohere, Local]).pipe(Effect.provide(live))
      assert.deepStrictEqual(providers.map((p) => p.id), [
        "openai",
        "openai-eu",
        "anthropic",
        "cohere",
        "openai-compatible"
      ])
      assert.deepStrictEqual(providers.map((p) => p.defaultModel), [
        "gpt-4.1-mini",
        "gpt-4.1-mini",
        "claude-haiku-4-5",
        "command-a-03-2025",
        undefined
      ])
      assert.deepStrictEqual(providers[1].models, { fast: "gpt-x" })
      const error = yield* Effect.flip(providers[1].generate(ask))
      assert.strictEqual(error.provider, "openai-eu")
      assert.strictEqual(transport.sent[0]!.url, "https://eu.test/v1/chat/completions")
    }))

  it.effect("layerConfig reads the vendor's variables", () =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      const all = Layer.mergeAll(
        OpenAi.layerConfig(),
        Anthropic.layerConfig(),
        Cohere.layerConfig(),
        OpenAiCompatible.layerConfig()
      ).pipe(Layer.provide(http(transport)))
      const variables = {
        OPENAI_API_KEY: "key-1",
        OPENAI_BASE_URL: "https://one.test/v1",
        OPENAI_ORG_ID: "org",
        OPENAI_PROJECT_ID: "",
        ANTHROPIC_API_KEY: "key-2",
        ANTHROPIC_BASE_URL: "https://two.test",
        COHERE_API_KEY: "key-3",
        OPENAI_COMPATIBLE_BASE_URL: "https://four.test/v1",
        OPENAI_COMPATIBLE_MODEL: "m"
      }
      yield* Effect.gen(function*() {
        for (const provider of yield* Effect.all([OpenAi, Anthropic, Cohere, OpenAiCompatible])) {
          yield* Effect.flip(provider.generate(ask))
        }
      }).pipe(Effect.provide(all), Effect.provide(env(variables)))
      assert.deepStrictEqual(transport.sent.map(({ url }) => url), [
        "https://one.test/v1/chat/completions",
        "https://two.test/v1/messages",
        "https://api.cohere.com/v2/chat",
        "https://four.test/v1/chat/completions"
      ])
      const [one, two, three, four] = transport.sent.map(({ request }) => request.headers)
      assert.strictEqual(one!["authorization"], "Bearer key-1")
      assert.strictEqual(one!["openai-organization"], "org")
      assert.isUndefined(one!["openai-project"])
      assert.strictEqual(two!["x-api-key"], "key-2")
      assert.strictEqual(three!["authorization"], "Bearer key-3")
      assert.isUndefined(four!["authorization"])
    }))

  it.effect("layerConfig names the variable that is missing", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[Layer.Layer<any, unknown, Http>, string]> = [
        [OpenAi.layerConfig(), "OPENAI_API_KEY"],
        [OpenAiEu.layerConfig(), "OPENAI_API_KEY"],
        [Anthropic.layerConfig(), "ANTHROPIC_API_KEY"],
        [Cohere.layerConfig(), "COHERE_API_KEY"],
        [OpenAiCompatible.layerConfig(), "OPENAI_COMPATIBLE_BASE_URL"],
        [Local.layerConfig({ baseUrl: Config.String("LOCAL_URL") }), "LOCAL_URL"]
      ]
      for (const [layer, variable] of cases) {
        const error = yield* Effect.flip(
          Effect.scoped(Layer.build(layer.pipe(Layer.provide(http()), Layer.provide(env({})))))
        )
        if (!(error instanceof LlmConfigError)) return assert.fail("a LlmConfigError")
        assert.strictEqual(error.message, `Invalid configuration: "${variable}" must be set, but is missing.`)
      }
      const empty = yield* Effect.flip(
        Effect.provide(
          OpenAi,
          OpenAi.layerConfig().pipe(Layer.provide(http()), Layer.provide(env({ OPENAI_API_KEY: "" })))
        )
      )
      assert.include(empty.message, "OPENAI_API_KEY")
    }))

  it.effect("layerConfigOptional: a vendor without a key is left out of clients", () =>
    Effect.gen(function*() {
      const given = Layer.mergeAll(
        OpenAi.layerConfigOptional(),
        OpenAiEu.layerConfigOptional({
          apiKey: Config.Redacted("EU_KEY")
        }),
        Anthropic.layerConfigOptional()
      ).pipe(Layer.provide(http()))
      const targets = (variables: Record<string, string>) =>
        Effect.flatMap(LlmClient, (client) => client.status).pipe(
          Effect.map((status) => status.targets.map(({ id }) => id)),
          Effect.provide(LlmClient.layer([OpenAi, OpenAiEu, Anthropic])),
          Effect.provide(given),
          Effect.provide(env(variables))
        )
      assert.deepStrictEqual(yield* targets({ OPENAI_API_KEY: "a", EU_KEY: "b", ANTHROPIC_API_KEY: "c" }), [
        "openai",
        "openai-2",
        "anthropic"
      ])
      assert.deepStrictEqual(yield* targets({ EU_KEY: "b" }), ["openai-2"])
      assert.deepStrictEqual(yield* targets({ ANTHROPIC_API_KEY: "c", OPENAI_API_KEY: " " }), ["anthropic"])
      assert.strictEqual(
        (yield* Effect.flip(targets({}))).message,
        "Invalid configuration: \"OPENAI_API_KEY or EU_KEY or ANTHROPIC_API_KEY\" must be set, but is missing."
      )
      // What is there and wrong is no absence.
      const wrong = yield* Effect.flip(targets({ OPENAI_API_KEY: "a", ANTHROPIC_API_KEY: "two\nlines" }))
      assert.include(wrong.message, "anthropic.apiKey")
    }))

  it.effect("a pool goes without the hosts that lack their key", () =>
    Effect.gen(function*() {
      class Both extends LlmPool.Service<Both>()("app/Both", [OpenAi, OpenAiEu]) {}
      const hosts = (variables: Record<string, string>) =>
        Effect.flatMap(Both, (pool) => Effect.map(pool.hosts, (all) => [pool.missing, all.map(({ host }) => host)]))
          .pipe(
            Effect.provide(Both.layer),
            Effect.provide(Layer.mergeAll(
              OpenAi.layerConfigOptional(),
              OpenAiEu.layerConfigOptional({
                apiKey: Config.Redacted("EU_KEY")
              })
            )),
            Effect.provide(http()),
            Effect.provide(env(variables))
          )
      assert.deepStrictEqual(yield* hosts({ EU_KEY: "b" }), [undefined, ["openai-2"]])
      assert.deepStrictEqual(yield* hosts({}), ["OPENAI_API_KEY", []])
    }))

  it.effect("layerConfig takes a Config for each option", () =>
    Effect.gen(function*() {
      const layer = OpenAiEu.layerConfig({
        apiKey: Config.Redacted("EU_KEY"),
        id: Config.succeed("eu"),
        models: { fast: Config.String("EU_FAST") }
      })
      const provider = yield* OpenAiEu.pipe(
        Effect.provide(layer.pipe(Layer.provide(http()), Layer.provide(env({ EU_KEY: "k", EU_FAST: "gpt-x" }))))
      )
      assert.strictEqual(provider.id, "eu")
      assert.deepStrictEqual(provider.models, { fast: "gpt-x" })
    }))

  it.effect("invalid options are named, with their rule, never their value", () =>
    Effect.gen(function*() {
      const make = (options: object) => OpenAi.make({ apiKey, ...options })
      const cases: ReadonlyArray<[Effect.Effect<LlmProvider, LlmConfigError, Http>, string]> = [
        [make({ apiKey: undefined }), "openAi.apiKey"],
        [make({ apiKey: "SECRET" }), "openAi.apiKey"],
        [make({ apiKey: Redacted.make("") }), "openAi.apiKey"],
        [make({ apiKey: Redacted.make("SECRET\r\nx: y") }), "openAi.apiKey"],
        [make({ baseUrl: "SECRET" }), "openAi.baseUrl"],
        [make({ baseUrl: "file:///SECRET" }), "openAi.baseUrl"],
        [make({ id: "" }), "openAi.id"],
        [make({ defaultModel: 1 }), "openAi.defaultModel"],
        [make({ models: { fast: "" } }), "openAi.models.fast"],
        [make({ models: 1 }), "openAi.models"],
        [make({ headers: { "a b": "SECRET" } }), "openAi.headers"],
        [make({ headers: { a: "SECRET\n" } }), "openAi.headers.a"],
        [make({ organization: "SECRET\n" }), "openAi.organization"],
        [make({ maxBodyBytes: 1 }), "openAi.maxBodyBytes"],
        [make({ unknown: 1 }), "openAi.unknown"],
        [Anthropic.make({ apiKey, beta: ["SECRET\n"] }), "anthropic.beta"],
        [Anthropic.make({ apiKey, maxTokens: 0 }), "anthropic.maxTokens"],
        [OpenAiCompatible.make({ baseUrl: "" }), "openAiCompatible.baseUrl"],
        [
          OpenAiCompatible.make({ baseUrl: "http://x", maxTokensField: "SECRET" as never }),
          "openAiCompatible.maxTokensField"
        ]
      ]
      for (const [effect, path] of cases) {
        const error = yield* Effect.flip(Effect.provide(effect, http()))
        assert.instanceOf(error, LlmConfigError)
        assert.strictEqual(error.path, path)
        assert.notInclude(`${error.message}${JSON.stringify(error)}`, "SECRET")
      }
    }))
})
