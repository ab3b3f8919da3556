/**
 * Amazon Bedrock, through the Converse API. Needs `@smithy/core`, `@smithy/signature-v4` and `@aws-crypto/sha256-js`.
 *
 * @since 0.2.0
 */
import { Sha256 } from "@aws-crypto/sha256-js"
import { SignatureV4 } from "@smithy/signature-v4"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import type { HttpClientRequest } from "effect/http/HttpClientRequest"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { attempt, optionsOf, readOptions, required, rule, textThat } from "../internal/option.ts"
import type { LlmConfigError, ProviderError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import { protocol } from "./internal/converse.ts"
import { providerError } from "./internal/errors.ts"
import * as Http from "./internal/http.ts"
import {
  commonFields,
  commonOf,
  type CommonOptions,
  endpointUrl,
  optionalVariable,
  provider,
  secret,
  secretText
} from "./internal/vendor.ts"
import { below } from "./internal/vertex.ts"

/**
 * A key pair of AWS, as its own credential providers give one.
 *
 * @category models
 * @since 0.2.0
 */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: Redacted.Redacted
  /** Goes with keys that expire. */
  readonly sessionToken?: Redacted.Redacted | undefined
}

/**
 * Options of {@link Bedrock}: either `apiKey` or `credentials`.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options extends CommonOptions {
  /** Such as `eu-central-1`. */
  readonly region: string
  /** A key of Bedrock's own, sent as it is. */
  readonly apiKey?: Redacted.Redacted | undefined
  /**
   * Keys that sign each request, or an effect that gives them. The effect runs once per request, because keys expire: let
   * it cache (`Effect.cachedWithTTL`). If it fails, the request fails with reason `Network` as never sent.
   */
  readonly credentials?: Credentials | Effect.Effect<Credentials, unknown> | undefined
}

/** Names of headers that hold what a request is signed with. */
const signed = ["x-amz-security-token"]

const textsOf = (given: unknown) => {
  const { accessKeyId, secretAccessKey, sessionToken } = (given ?? {}) as Partial<Credentials>
  const secret = Redacted.isRedacted(secretAccessKey) ? secretText(secretAccessKey) : undefined
  const token = Redacted.isRedacted(sessionToken) ? secretText(sessionToken) : undefined
  return typeof accessKeyId !== "string" || !/^\w+$/.test(accessKeyId) || secret === undefined ||
      (sessionToken !== undefined && token === undefined)
    ? undefined
    : { accessKeyId, secretAccessKey: secret, ...(token === undefined ? undefined : { sessionToken: token }) }
}

const failure = (id: string, reason: "Network" | "Authentication", code: string): ProviderError =>
  providerError(id, {
    reason: reason === "Network" ? { _tag: "Network", sent: false } : { _tag: "Authentication" },
    code
  })

type Keys = NonNullable<Options["credentials"]>

const REGION = "the name of a region"
const KEYS = "keys with accessKeyId and a Redacted secretAccessKey"

const schema = optionsOf<Options>()({
  ...commonFields,
  region: required(textThat((text) => /^[a-z\d-]+$/.test(text), REGION), REGION),
  apiKey: Schema.optional(secret),
  credentials: Schema.optional(
    Schema.declare<Keys>((u): u is Keys => Effect.isEffect(u) || textsOf(u) !== undefined, { expected: KEYS })
  )
}).check(rule(({ apiKey, credentials }) => {
  if (apiKey === undefined) return credentials === undefined ? ["credentials", KEYS] : undefined
  return credentials === undefined ? undefined : ["credentials", "absent when apiKey is given"]
}))

/** Signs requests; by itself it asks nobody anything. */
const signing = (given: Keys, id: string, region: string): Http.Endpoint["credentials"] => {
  const keys = Effect.isEffect(given)
    ? Effect.mapError(given, () => failure(id, "Network", "credentials_unavailable"))
    : Effect.succeed(given)
  return (request: HttpClientRequest) =>
    Effect.flatMap(keys, (found) => {
      const credentials = textsOf(found)
      if (credentials === undefined) return Effect.fail(failure(id, "Authentication", "invalid_credentials"))
      const { hostname, host, pathname, protocol, searchParams } = new URL(request.url)
      const { body } = request
      const signer = new SignatureV4({ service: "bedrock", region, credentials, sha256: Sha256, applyChecksum: false })
      return Effect.flatMap(Clock.currentTimeMillis, (now) =>
        Effect.map(
          Effect.tryPromise({
            try: () =>
              signer.sign({
                method: request.method,
                protocol,
                hostname,
                path: pathname,
                query: Object.fromEntries(searchParams),
                headers: { host, "content-type": request.headers["content-type"] ?? "" },
                body: body._tag === "Uint8Array" ? body.body : undefined
              }, { signingDate: new Date(now) }),
            catch: () => failure(id, "Authentication", "invalid_credentials")
          }),
          ({ headers }) =>
            Object.fromEntries(Object.entries(headers).filter(([name]) => /^(?:authorization|x-amz-)/.test(name)))
        ))
    })
}

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "bedrock")
      const { apiKey, baseUrl, credentials, region } = options
      const common = commonOf(options, "bedrock", undefined)
      const base = endpointUrl(baseUrl ?? `https://bedrock-runtime.${region}.amazonaws.com`, "")
      return {
        ...common,
        url: (model, stream) =>
          below(
            base.replace(/\/$/, ""),
            `/model/${encodeURIComponent(model)}/${stream ? "converse-stream" : "converse"}`
          ),
        headers: apiKey === undefined ? common.headers : { ...common.headers, authorization: `Bearer ${apiKey}` },
        credentials: credentials && signing(credentials, common.id, region),
        secretHeaders: [...common.secretHeaders, ...signed],
        reasoning: "bedrock",
        protocol: protocol(common.id)
      }
    }),
    Http.make
  )

const secretVariable = (name: string) => Config.withDefault(Config.Redacted(name), undefined)

const config: Config.Config<Options> = Config.map(
  Config.all({
    region: Config.String("AWS_REGION"),
    apiKey: secretVariable("AWS_BEARER_TOKEN_BEDROCK"),
    accessKeyId: optionalVariable("AWS_ACCESS_KEY_ID"),
    secretAccessKey: secretVariable("AWS_SECRET_ACCESS_KEY"),
    sessionToken: secretVariable("AWS_SESSION_TOKEN"),
    defaultModel: optionalVariable("BEDROCK_MODEL")
  }),
  ({ accessKeyId, apiKey, defaultModel, region, secretAccessKey, sessionToken }) => ({
    region,
    defaultModel,
    apiKey,
    credentials: apiKey !== undefined || accessKeyId === undefined || secretAccessKey === undefined
      ? undefined
      : { accessKeyId, secretAccessKey, sessionToken }
  })
)

/**
 * Amazon Bedrock as a provider, through Converse and ConverseStream.
 *
 * **Details**
 *
 * - `Bedrock.layer(options)` needs an `HttpClient`; `Bedrock.layerConfig()` reads `AWS_REGION` and either
 *   `AWS_BEARER_TOKEN_BEDROCK` or `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, when set, `AWS_SESSION_TOKEN`; and
 *   `BEDROCK_MODEL`. Requests are signed by `@smithy/signature-v4`, and streams unpacked by `@smithy/core`.
 * - There is no default model: what may be asked depends on region and account. Names are those of models and inference
 *   profiles, such as `eu.anthropic.claude-haiku-4-5-20251001-v1:0`, or their ARNs.
 * - Files go by their bytes: PNG, JPEG, GIF, WebP; PDF, CSV, Word, Excel, HTML, text and Markdown.
 * - `seed`, `topK`, penalties and `reasoningEffort` have no place and are left out, and so is `toolChoice: "none"` in a
 *   conversation that tells of tools; otherwise the tools are not sent. What a model has of its own goes into `providerOptions: { bedrock: { additionalModelRequestFields: {…} } }`.
 * - A conversation that tells of tools, in a request without any, names those tools again: the API insists on it.
 * - `options: { bedrock: { cachePoint: { type: "default" } } }` of a part or message marks a cached prefix. Reasoning keeps
 *   its `signature` or `redactedContent` as metadata under `bedrock`.
 *
 * **Gotchas**
 *
 * - Checked against the service model and the official client only: no recording of the service was at hand.
 *
 * **Example** (A provider as a value)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
 *
 * const program = Effect.gen(function*() {
 *   const credentials = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: Redacted.make("your-secret") }
 *   const provider = yield* Bedrock.make({ region: "eu-central-1", credentials })
 *   return provider.vendor
 * })
 * await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer)) // => "bedrock"
 * ```
 *
 * @category services
 * @since 0.2.0
 */
export class Bedrock
  extends provider<Options>({ id: "bedrock", make, config })<Bedrock>()("effect-resilient-llm/Bedrock")
{}
