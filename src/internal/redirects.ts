// A redirect takes keys and prompts to an address that nobody named: requests of this library follow none.
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { RequestInit } from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientRequest } from "effect/http/HttpClientRequest"

/**
 * The same client, whose `fetch` gives redirects back instead of following them. Other transports of Effect never
 * follow.
 *
 * The user's own `RequestInit` is known only inside the client, so it is completed there, in the context of the running
 * request: whoever executes a request must do so in a context of its own (`Effect.updateContext`).
 */
export const notFollowing = (client: HttpClient.HttpClient): HttpClient.HttpClient =>
  HttpClient.makeWith((request) => client.postprocess(Effect.flatMap(request, manual)), client.preprocess)

const manual = (request: HttpClientRequest): Effect.Effect<HttpClientRequest> =>
  Effect.withFiber((fiber) => {
    const init = Context.getOrUndefined(fiber.context as Context.Context<RequestInit>, RequestInit)
    if (init?.redirect !== "manual") {
      fiber.setContext(Context.add(fiber.context, RequestInit, init === undefined ? bare : { ...init, ...bare }))
    }
    return Effect.succeed(request)
  })

const bare = { redirect: "manual" } as const
