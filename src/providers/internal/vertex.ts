// Vertex AI: where it is, and as whom it is asked. Several vendors' models are there, each with its own protocol.
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { optionsOf, required, rule, textThat } from "../../internal/option.ts"
import type { ProviderError } from "../../LlmError.ts"
import { type Facts, providerError } from "./errors.ts"
import { SECRET, secret, secretText } from "./vendor.ts"

/**
 * Where and as whom Vertex AI is asked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Vertex {
  /** Identifier of the Google Cloud project. */
  readonly project: string
  /** A region such as `europe-west4`, `us` or `eu`, or `global`. */
  readonly location: string
  /**
   * An OAuth access token, or an effect that gives one. The effect runs once per request, because tokens expire: let it
   * cache (`Effect.cachedWithTTL`). If it fails, the request fails with reason `Network` as never sent.
   */
  readonly accessToken: Redacted.Redacted | Effect.Effect<Redacted.Redacted, unknown>
  /** Version in the address: `v1beta1` for Gemini, `v1` for Anthropic by default. Some servers know only `v1`. */
  readonly apiVersion?: string | undefined
}

const like = (shape: RegExp, expected: string) => textThat((text) => shape.test(text), expected)

const PROJECT = "the identifier of a project"
const LOCATION = "the name of a region"

/** The schema of {@link Vertex}. */
export const VertexSchema = optionsOf<Vertex>()({
  project: required(like(/^\w[\w:.-]*$/, PROJECT), PROJECT),
  location: required(like(/^[a-z][a-z\d-]*$/, LOCATION), LOCATION),
  accessToken: required(
    Schema.Union([
      secret,
      Schema.declare<Effect.Effect<Redacted.Redacted, unknown>>(
        (u): u is Effect.Effect<Redacted.Redacted, unknown> => Effect.isEffect(u),
        { expected: SECRET }
      )
    ]),
    SECRET
  ),
  apiVersion: Schema.optional(like(/^v\d[a-z\d]*$/, "a version such as v1"))
})

type Read = typeof VertexSchema.Type

/** One of both, a key of the vendor's own API or Vertex AI. */
export const keyOrVertex = rule<{ readonly apiKey?: string | undefined; readonly vertex?: Read | undefined }>(
  (options) => {
    const { apiKey, vertex } = options
    if (vertex === undefined) return apiKey === undefined ? ["apiKey", SECRET] : undefined
    return apiKey === undefined ? undefined : ["apiKey", "absent when vertex is given"]
  }
)

/** The `authorization` header of each request. */
export const bearerOf = (
  { accessToken }: Read,
  id: string
): () => Effect.Effect<{ readonly authorization: string }, ProviderError> => {
  const headerOf = (text: string) => Effect.succeed({ authorization: `Bearer ${text}` })
  if (typeof accessToken === "string") {
    const header = headerOf(accessToken)
    return () => header
  }
  const failure = (facts: Facts): ProviderError => providerError(id, facts)
  const header = accessToken.pipe(
    Effect.mapError(() => failure({ reason: { _tag: "Network", sent: false }, code: "access_token_unavailable" })),
    Effect.flatMap((value: unknown) => {
      const text = Redacted.isRedacted(value) ? secretText(value) : undefined
      return text === undefined
        ? Effect.fail(failure({ reason: { _tag: "Authentication" }, code: "invalid_access_token" }))
        : headerOf(text)
    })
  )
  return () => header
}

const hostOf = (location: string): string => {
  if (location === "global") return "https://aiplatform.googleapis.com"
  return location === "us" || location === "eu"
    ? `https://aiplatform.${location}.rep.googleapis.com`
    : `https://${location}-aiplatform.googleapis.com`
}

/** The address, and the path below it under which a publisher's models are. */
export const placeOf = (
  { apiVersion, location, project }: Read,
  publisher: string,
  version: string
): { readonly host: string; readonly path: string } => ({
  host: hostOf(location),
  path: `/${apiVersion ?? version}/projects/${project}/locations/${location}/publishers/${publisher}`
})

/** Puts a path behind that of `base`, before its query. */
export const below = (base: string, path: string, search = ""): string => {
  const [, address, query = ""] = /^([^?]*)\??(.*)$/.exec(base) ?? []
  const both = [query, search].filter((part) => part !== "").join("&")
  return `${address}${path}${both === "" ? "" : `?${both}`}`
}
