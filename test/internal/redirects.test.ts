import { assert, describe, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import { RequestInit } from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import { notFollowing } from "../../src/internal/redirects.ts"

/** What a client's `fetch` is told, request by request. */
const recorder = () => {
  const inits: Array<object | undefined> = []
  const client = HttpClient.make((request) =>
    Effect.contextWith((context: Context.Context<never>) => {
      inits.push(Context.getOrUndefined(context as Context.Context<RequestInit>, RequestInit))
      return Effect.succeed(HttpClientResponse.fromWeb(request, new Response("", { status: 302 })))
    })
  )
  return { client, inits }
}

/** As whoever executes a request must: in a context of its own. */
const own = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.updateContext(effect, (context: Context.Context<R>) => context)
const request = HttpClientRequest.get("http://localhost/")

describe("notFollowing", () => {
  it.effect("no redirect is followed, whatever the user's own settings say", () =>
    Effect.gen(function*() {
      const { client, inits } = recorder()
      const safe = notFollowing(client)
      const mine = { redirect: "follow", cache: "no-store" } as const
      yield* own(safe.execute(request))
      yield* Effect.provideService(own(safe.execute(request)), RequestInit, mine)
      yield* Effect.provideService(own(safe.execute(request)), RequestInit, { redirect: "error" })
      assert.deepStrictEqual(inits, [
        { redirect: "manual" },
        { redirect: "manual", cache: "no-store" },
        { redirect: "manual" }
      ])
      assert.deepStrictEqual(mine, { redirect: "follow", cache: "no-store" })
    }))

  it.effect("the setting is gone with the request, and what was set before stays what it is", () =>
    Effect.gen(function*() {
      const { client, inits } = recorder()
      const before = notFollowing(HttpClient.mapRequest(client, HttpClientRequest.setHeader("x-a", "1")))
      const mine = { redirect: "manual", cache: "reload" } as const
      const response = yield* Effect.provideService(own(before.execute(request)), RequestInit, mine)
      assert.strictEqual(inits[0], mine)
      assert.strictEqual(response.request.headers["x-a"], "1")
      const after = yield* Effect.context()
      assert.isUndefined(Context.getOrUndefined(after as Context.Context<RequestInit>, RequestInit))
      yield* own(client.execute(request))
      assert.isUndefined(inits[1])
    }))
})
