// Vertex AI: where it is, and as whom it is asked. Several vendors' models are there, each with its own protocol.
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { OptionsReader } from "../../internal/options.ts"
import type { ProviderError } from "../../LlmError.ts"
import { type Facts, providerError } from "./errors.ts"
import { secretOf, secretText } from "./vendor.ts"

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

/** Names of {@link Vertex}. */
export const vertexNames = ["project", "location", "accessToken", "apiVersion"] as const

/** The `authorization` header of each request. */
export const bearerOf = (
  reader: OptionsReader<Vertex>,
  id: string
): () => Effect.Effect<{ readonly authorization: string }, ProviderError> => {
  const token: unknown = reader.value("accessToken")
  const headerOf = (text: string) => Effect.succeed({ authorization: `Bearer ${text}` })
  if (!Effect.isEffect(token)) {
    const header = headerOf(secretOf(reader, "accessToken"))
    return () => header
  }
  const failure = (facts: Facts): ProviderError => providerError(id, facts)
  const header = (token as Effect.Effect<unknown, unknown>).pipe(
    Effect.mapError(() => failure({ reason: { _tag: "Network", sent: false }, code: "access_token_unavailable" })),
    Effect.flatMap((value) => {
      const text = Redacted.isRedacted(value) ? secretText(value) : undefined
      return text === undefined
        ? Effect.fail(failure({ reason: { _tag: "Authentication" }, code: "invalid_access_token" }))
        : headerOf(text)
    })
  )
  return () => header
}

const pattern = (reader: OptionsReader<Vertex>, key: keyof Vertex, rule: string, shape: RegExp): string => {
  const value: unknown = reader.value(key)
  return typeof value === "string" && shape.test(value) ? value : reader.fail(key, rule, value)
}

const hostOf = (location: string): string => {
  if (location === "global") return "https://aiplatform.googleapis.com"
  return location === "us" || location === "eu"
    ? `https://aiplatform.${location}.rep.googleapis.com`
    : `https://${location}-aiplatform.googleapis.com`
}

/** The address, and the path below it under which a publisher's models are. */
export const placeOf = (
  reader: OptionsReader<Vertex>,
  publisher: string,
  version: string
): { readonly host: string; readonly path: string } => {
  const project = pattern(reader, "project", "the identifier of a project", /^\w[\w:.-]*$/)
  const location = pattern(reader, "location", "the name of a region", /^[a-z][a-z\d-]*$/)
  const chosen = reader.value("apiVersion") === undefined
    ? version
    : pattern(reader, "apiVersion", "a version such as v1", /^v\d[a-z\d]*$/)
  return {
    host: hostOf(location),
    path: `/${chosen}/projects/${project}/locations/${location}/publishers/${publisher}`
  }
}

/** Puts a path behind that of `base`, before its query. */
export const below = (base: string, path: string, search = ""): string => {
  const [, address, query = ""] = /^([^?]*)\??(.*)$/.exec(base) ?? []
  const both = [query, search].filter((part) => part !== "").join("&")
  return `${address}${path}${both === "" ? "" : `?${both}`}`
}
