// Every fault of `FaultServer`, asked for through a provider on three clients: callers cannot tell which one it was.
import { assert, describe, it } from "@effect/vitest"
import { LlmClient } from "effect-resilient-llm"
import { OpenAi } from "effect-resilient-llm/providers"
import { FaultServer } from "effect-resilient-llm/testing"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { apiKey } from "../providers/support.ts"
import { clients } from "./support.ts"

const faults: Readonly<Record<string, FaultServer.Fault>> = {
  "a healthy answer": FaultServer.ok(),
  "a rate limit": FaultServer.status(429, { retryAfter: 3 }),
  "no quota": FaultServer.status(429, { reason: "Quota" }),
  "a wrong key": FaultServer.status(401),
  "an error page": FaultServer.status(502),
  "overloaded": FaultServer.error("Overloaded"),
  "silence before the head": FaultServer.hang(),
  "a reset before the head": FaultServer.resetBeforeHeaders(),
  "a reset behind the head": FaultServer.resetInBody({ afterChunks: 0 }),
  "a reset in the body": FaultServer.resetInBody({ afterChunks: 2 }),
  "a stall behind the head": FaultServer.stall({ afterChunks: 0 }),
  "a stall in the body": FaultServer.stall({ afterChunks: 2 }),
  "a stall that looks alive": FaultServer.stall({ afterChunks: 2, keepAliveMillis: 20 }),
  "a cut": FaultServer.truncate({ afterChunks: 2 }),
  "a cut inside an event": FaultServer.truncate({ afterChunks: 2, midEvent: true }),
  "an error in the answer": FaultServer.errorEvent({ afterChunks: 2 }),
  "an answer that is not JSON": FaultServer.malformedJson({ afterChunks: 2 }),
  "no body": FaultServer.emptyBody(),
  "nothing but keep-alives": FaultServer.keepAlives({ everyMillis: 20 }),
  "a slow head": FaultServer.slowHeaders(50),
  "a slow first token": FaultServer.slowFirstToken(50),
  "a redirect": FaultServer.raw({ status: 307, headers: { location: "https://elsewhere.invalid/" }, body: "" }),
  "an answer in single bytes": FaultServer.raw({
    body: "{\"choices\":[{\"message\":{\"content\":\"Grüezi 😀\"},\"finish_reason\":\"stop\"}]}",
    headers: { "content-type": "application/json" },
    chunkBytes: 1
  })
}

/** What a caller sees: the text, then how it ended. */
const seen = (stream: boolean) =>
  Effect.gen(function*() {
    const client = yield* LlmClient
    let text = ""
    const asked = stream
      ? Stream.runForEach(client.stream("Hi"), (part) =>
        Effect.sync(() => {
          if (part.type === "text-delta") text += part.delta
        }))
      : Effect.map(client.complete("Hi"), (answer) => {
        text = answer.text
      })
    const end = yield* Effect.match(asked, {
      onSuccess: () => "ended",
      onFailure: (error) => {
        const { _tag } = error
        const reason = "reason" in error && typeof error.reason === "object" ? error.reason : undefined
        return { _tag, reason, message: error.message }
      }
    })
    return { text, end }
  })

const through = (
  http: Layer.Layer<HttpClient>,
  server: FaultServer.FaultServer,
  fault: FaultServer.Fault,
  stream: boolean
) =>
  Effect.gen(function*() {
    yield* server.reset
    yield* server.always(fault)
    const client = LlmClient.layer([OpenAi], {
      retry: false,
      timeout: { attempt: "800 millis", firstToken: "800 millis", idle: "800 millis", deadline: "10 seconds" }
    }).pipe(
      Layer.provide(OpenAi.layer({ apiKey, baseUrl: server.openai, defaultModel: "gpt" })),
      Layer.provide(http)
    )
    const result = yield* Effect.provide(seen(stream), client)
    const { active } = yield* server.stats
    let left = active
    for (let i = 0; i < 200 && left > 0; i++) {
      yield* Effect.sleep("5 millis")
      left = (yield* server.stats).active
    }
    return { ...result, left }
  })

describe.concurrent("every fault is the same on all clients", () => {
  for (const [what, fault] of Object.entries(faults)) {
    for (const stream of [false, true]) {
      it.live(`${what}, ${stream ? "streamed" : "whole"}`, () =>
        Effect.gen(function*() {
          const server = yield* FaultServer.make()
          const results = yield* Effect.forEach(clients, ([, http]) => through(http, server, fault, stream))
          assert.strictEqual(results[0]!.left, 0)
          for (const [i, [name]] of clients.entries()) assert.deepStrictEqual(results[i], results[0], name)
        }))
    }
  }
})
