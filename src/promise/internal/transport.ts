// The transport of a client that nobody gives one: on Node the fast one, where its optional peer is installed, and
// `fetch` everywhere else. It is loaded with the first request, so that making a client stays synchronous.
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { runtime } from "../../internal/runtime.ts"

const isNode = runtime.process?.versions?.node !== undefined && runtime.process.versions.bun === undefined &&
  runtime.Deno === undefined

// Not a literal: bundlers for the browser and for workers shall not look for Node's parts.
const fast: string = "effect-resilient-llm/node"

const onNode = async (): Promise<Layer.Layer<HttpClient.HttpClient> | undefined> => {
  try {
    const { DispatcherHttpClient } = await import(/* webpackIgnore: true */ /* @vite-ignore */ fast) as {
      readonly DispatcherHttpClient: { readonly layerAgent: () => Layer.Layer<HttpClient.HttpClient> }
    }
    return DispatcherHttpClient.layerAgent()
  } catch {
    return undefined // @effect/platform-node is not installed.
  }
}

/** Its connections end with the scope. */
export const make = (scope: Scope.Scope): HttpClient.HttpClient => {
  let client: HttpClient.HttpClient | undefined
  let loading: Promise<HttpClient.HttpClient> | undefined
  const load = async (): Promise<HttpClient.HttpClient> => {
    const layer = (isNode ? await onNode() : undefined) ?? FetchHttpClient.layer
    const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
    return client = Effect.runSync(Effect.provideContext(HttpClient.HttpClient, context))
  }
  const loaded = Effect.suspend(() =>
    client === undefined ? Effect.promise(() => loading ??= load()) : Effect.succeed(client)
  )
  return HttpClient.makeWith<never, never, HttpClientError, never>(
    Effect.flatMap((request) => Effect.flatMap(loaded, (http) => http.execute(request))),
    Effect.succeed
  )
}
