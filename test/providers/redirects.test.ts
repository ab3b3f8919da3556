// A redirect is a failure: no key, header or prompt goes where the user did not send it.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { DispatcherHttpClient } from "effect-resilient-llm/node"
import { Otlp } from "effect-resilient-llm/observability"
import { Anthropic, Cohere, Gemini, Ollama, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import { createServer, type IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import { apiKey, ask, digest, type Make, run } from "./support.ts"

interface Listener {
  readonly url: string
  readonly requests: Array<IncomingMessage>
}

/** Answers with a redirect while `to` is set, else with 200 and something that some adapters could read. */
const listen = (answer: (request: IncomingMessage) => readonly [status: number, location: string] | undefined) =>
  Effect.acquireRelease(
    Effect.callback<Listener & { readonly stop: () => void }>((resume) => {
      const requests: Array<IncomingMessage> = []
      const server = createServer((request, response) => {
        requests.push(request)
        request.resume().on("end", () => {
          const redirect = answer(request)
          if (redirect === undefined) {
            response.writeHead(200, { "content-type": "application/json" })
            response.end("{\"choices\":[{\"message\":{\"content\":\"elsewhere\"},\"finish_reason\":\"stop\"}]}")
          } else response.writeHead(redirect[0], { location: redirect[1] }).end()
        })
      })
      server.listen(0, "127.0.0.1", () =>
        resume(Effect.succeed({
          url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
          requests,
          stop: () => {
            server.closeAllConnections()
            server.close()
          }
        })))
    }),
    ({ stop }) => Effect.sync(stop)
  )

const headers = { "x-of-the-user": "secret" }

const adapters: Readonly<Record<string, (baseUrl: string) => Make>> = {
  "OpenAI chat": (baseUrl) => OpenAi.make({ apiKey, baseUrl, headers }),
  "OpenAI responses": (baseUrl) => OpenAi.make({ apiKey, baseUrl, headers, api: "responses" }),
  Anthropic: (baseUrl) => Anthropic.make({ apiKey, baseUrl, headers }),
  Gemini: (baseUrl) => Gemini.make({ apiKey, baseUrl, headers }),
  "Gemini at Vertex AI": (baseUrl) =>
    Gemini.make({ baseUrl, headers, vertex: { project: "p", location: "l", accessToken: Effect.succeed(apiKey) } }),
  Cohere: (baseUrl) => Cohere.make({ apiKey, baseUrl, headers }),
  Ollama: (baseUrl) => Ollama.make({ apiKey, baseUrl, headers, defaultModel: "m" }),
  compatible: (baseUrl) => OpenAiCompatible.make({ apiKey, baseUrl, headers, defaultModel: "m" }),
  azure: (baseUrl) =>
    OpenAiCompatible.make({
      ...OpenAiCompatible.presets.azure({ apiKey, endpoint: baseUrl, deployment: "d" }),
      headers
    })
}

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
  ["undici", NodeHttpClient.layerUndici],
  ["undici's dispatcher", DispatcherHttpClient.layerAgent()],
  ["node:http", NodeHttpClient.layerNodeHttp],
  ["fetch", FetchHttpClient.layer]
]

for (const [name, client] of clients) {
  describe(`over ${name}`, () => {
    for (const status of [301, 302, 303, 307, 308]) {
      it.live(`${status} is a failure, to another origin and to the same one`, () =>
        Effect.gen(function*() {
          const other = yield* listen(() => undefined)
          const away = yield* listen(() => [status, `${other.url}/stolen`])
          const around = yield* listen(({ url }) => url === "/moved" ? undefined : [status, "/moved"])
          for (const [adapter, make] of Object.entries(adapters)) {
            for (const streaming of [false, true]) {
              for (const { requests, url } of [away, around]) {
                const provider = yield* make(url)
                const before = requests.length
                const outcome = yield* run(provider, streaming, { ...ask, idempotencyKey: "k" })
                const problem = "the HTTP status is neither a success nor an error"
                assert.deepStrictEqual(outcome.error?.reason, { _tag: "MalformedResponse", problem }, adapter)
                assert.strictEqual(outcome.error?.status, status)
                assert.strictEqual(requests.length, before + 1, `${adapter} asks once`)
              }
            }
          }
          assert.strictEqual(other.requests.length, 0)
        }).pipe(Effect.provide(client)))
    }

    it.live("nor do the exports of telemetry follow, with the headers of their collector", () =>
      Effect.gen(function*() {
        const other = yield* listen(() => undefined)
        const collector = yield* listen(() => [307, `${other.url}/stolen`])
        const telemetry = Otlp.layer({ endpoint: collector.url, headers: { "x-api-key": "secret" } })
        yield* Effect.void.pipe(Effect.withSpan("order"), Effect.provide(telemetry))
        assert.isAbove(collector.requests.length, 0)
        assert.strictEqual(other.requests.length, 0)
      }).pipe(Effect.provide(client)))
  })
}

describe("a fetch of the user's", () => {
  const compatible = (baseUrl: string) => OpenAiCompatible.make({ baseUrl, defaultModel: "m" })
  const mine = { headers: { "x-mine": "1" }, redirect: "follow" } as const
  const placed: Readonly<Record<string, Layer.Layer<HttpClient.HttpClient>>> = {
    "below its layer": Layer.provide(FetchHttpClient.layer, Layer.succeed(FetchHttpClient.RequestInit, mine)),
    "beside its layer": Layer.merge(
      FetchHttpClient.layer,
      Layer.succeed(FetchHttpClient.RequestInit, mine) as Layer.Layer<never>
    )
  }
  for (const [where, client] of Object.entries(placed)) {
    it.live(`keeps its RequestInit ${where}, but does not follow`, () =>
      Effect.gen(function*() {
        const other = yield* listen(() => undefined)
        const first = yield* listen(() => [307, other.url])
        const outcome = yield* run(yield* compatible(first.url), false)
        assert.strictEqual(outcome.error?.status, 307)
        assert.strictEqual(first.requests[0]?.headers["x-mine"], "1")
        assert.strictEqual(other.requests.length, 0)
      }).pipe(Effect.provide(client)))
  }

  it.live("does not follow below a client that was changed", () =>
    Effect.gen(function*() {
      const other = yield* listen(() => undefined)
      const first = yield* listen(() => [307, other.url])
      const changed = (yield* HttpClient.HttpClient).pipe(
        HttpClient.tap(() => Effect.void),
        HttpClient.retry({ times: 1 }),
        HttpClient.mapRequest((request) => request)
      )
      const provider = yield* Effect.provideService(compatible(first.url), HttpClient.HttpClient, changed)
      assert.strictEqual((yield* run(provider, false)).error?.status, 307)
      assert.strictEqual(other.requests.length, 0)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("leaves the user's own requests as they are", () =>
    Effect.gen(function*() {
      const other = yield* listen(() => undefined)
      const first = yield* listen(({ url }) => url === "/mine" ? [307, other.url] : undefined)
      const outcome = yield* run(yield* compatible(first.url), false)
      assert.strictEqual(digest(outcome).text, "elsewhere")
      const response = yield* HttpClient.get(`${first.url}/mine`)
      assert.strictEqual(response.status, 200)
      assert.strictEqual(other.requests.length, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
