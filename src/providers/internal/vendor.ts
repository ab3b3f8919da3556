// What all vendor modules share: their options, and the class that is tag, constructor and layers in one.
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Stream from "effect/Stream"
import { integer, required, text, textThat } from "../../internal/option.ts"
import { LlmConfigError, providerError, withoutStack } from "../../LlmError.ts"
import type { LlmProvider } from "../../LlmProvider.ts"

/** Options that every vendor has. */
export interface CommonOptions {
  /** Identifier in errors, ledgers and metrics; the vendor's name by default. */
  readonly id?: string | undefined
  /** Where the API lives; the vendor's public address by default. A query string is kept. */
  readonly baseUrl?: string | undefined
  /** Model asked when a request names none. */
  readonly defaultModel?: string | undefined
  /** Logical model name → the vendor's name. */
  readonly models?: Readonly<Record<string, string>> | undefined
  /** Further headers, for gateways. A `Redacted` value is kept out of traces. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /**
   * Most bytes of a whole answer, and of one event or all tool arguments of a streamed one (default 16 MiB). More is a
   * `MalformedResponse`.
   */
  readonly maxBodyBytes?: number | undefined
}

const headerName = /^[!#$%&'*+.^_`|~\w-]+$/
const headerValue = /^[\x20-\x7e\x80-\xff]*$/
const secretValue = /^[\x21-\x7e]+$/

/** The text of a key, without the blanks that files and shells leave around it; `undefined` when it is none. */
export const secretText = (secret: Redacted.Redacted<unknown>): string | undefined => {
  const value = Redacted.value(secret)
  const text = typeof value === "string" ? value.trim() : ""
  return secretValue.test(text) ? text : undefined
}

const isRedacted = (u: unknown): u is Redacted.Redacted => Redacted.isRedacted(u)

export const SECRET = "a Redacted text"

/** A key given as an option, read as its text. */
export const secret = Schema.declare<Redacted.Redacted>(isRedacted, { expected: SECRET }).pipe(
  Schema.decodeTo(
    text("a key without blanks and line breaks"),
    SchemaTransformation.transform({
      decode: (key) => secretText(key) ?? "",
      encode: (key) => Redacted.make(key)
    })
  )
)

/** A key without which nothing goes. */
export const requiredSecret = required(secret, SECRET)

/** A text that can be the value of a header. */
export const headerText = textThat((text) => text.trim() !== "" && headerValue.test(text), "a text without line breaks")

const ADDRESS = "an http or https URL"

const isAddress = (text: string): boolean => URL.canParse(text) && ["https:", "http:"].includes(new URL(text).protocol)

/** An address for which there is no other one. */
export const requiredAddress = required(textThat(isAddress, ADDRESS), ADDRESS)

const header = Schema.declare<string | Redacted.Redacted>(
  (u): u is string | Redacted.Redacted => typeof u === "string" || isRedacted(u),
  { expected: "a header value" }
).check(Schema.makeFilter(
  (value) => {
    const text: unknown = isRedacted(value) ? Redacted.value(value) : value
    return typeof text === "string" && headerValue.test(text)
  },
  { expected: "a header value" }
))

/** The fields of {@link CommonOptions}. */
export const commonFields = {
  id: Schema.optional(headerText),
  baseUrl: Schema.optional(textThat(isAddress, ADDRESS)),
  defaultModel: Schema.optional(headerText),
  models: Schema.optional(
    Schema.Record(Schema.String, text("a model name")).annotate({ expected: "a map of model names" })
  ),
  headers: Schema.optional(
    Schema.Record(Schema.String, header).annotate({ expected: "a map of headers" }).check(Schema.makeFilter(
      (headers) => Object.keys(headers).every((name) => headerName.test(name)),
      { expected: "a map with valid header names" }
    ))
  ),
  maxBodyBytes: integer(16 * 1024 * 1024, 1024)
}

/** The address of one operation: `path` goes behind the path of the base, before its query. */
export const endpointUrl = (base: string, path: string): string => {
  const url = new URL(base)
  url.pathname = url.pathname.replace(/\/+$/, "") + path
  url.hash = ""
  return url.href
}

export interface Common {
  readonly id: string
  readonly defaultModel: string | undefined
  readonly models: Readonly<Record<string, string>> | undefined
  readonly headers: Record<string, string>
  readonly secretHeaders: Array<string>
  readonly maxBodyBytes: number
}

/** What all vendors make of {@link CommonOptions}, except for the address. Vendors add their own headers to `headers`. */
export const commonOf = (
  options: Schema.Struct<typeof commonFields>["Type"],
  id: string,
  defaultModel: string | undefined
): Common => {
  const headers: Record<string, string> = {}
  const secretHeaders: Array<string> = []
  for (const [name, value] of Object.entries(options.headers ?? {})) {
    headers[name.toLowerCase()] = isRedacted(value) ? Redacted.value(value) : value
    if (isRedacted(value)) secretHeaders.push(name.toLowerCase())
  }
  return {
    id: options.id ?? id,
    defaultModel: options.defaultModel ?? defaultModel,
    models: options.models,
    headers,
    secretHeaders,
    maxBodyBytes: options.maxBodyBytes
  }
}

// -----------------------------------------------------------------------------
// configuration
// -----------------------------------------------------------------------------

/** What of its configuration is missing: the name of a variable. */
const missingFrom = ({ cause }: Config.ConfigError): string | undefined => {
  if (cause._tag !== "SchemaError") return undefined
  const path: Array<string> = []
  for (let issue: SchemaIssue.Issue | undefined = cause.issue; issue !== undefined;) {
    if (issue._tag === "Pointer") path.push(...issue.path.map(String))
    issue = "issue" in issue ? issue.issue : undefined
  }
  return path.length === 0 ? undefined : path.join("_")
}

/** Options, or the name of the variable without which there are none. An empty key is none. */
const read = <O>(config: Config.Config<O>): Effect.Effect<O | Missing, Config.ConfigError> =>
  Effect.flatMap(Config.option(config), (found) => {
    if (Option.isSome(found) && !hasEmptyKey(found.value)) return Effect.succeed<O | Missing>(found.value)
    // The one that is asked for first where there is nothing.
    const lost = Option.isSome(found) ? config.parse(nothing) : config
    return Effect.catch(lost, (error) => {
      const missing = missingFrom(error)
      return missing === undefined ? Effect.fail(error) : Effect.succeed(new Missing(missing))
    })
  })

const nothing = ConfigProvider.fromUnknown({})

class Missing {
  readonly variable: string
  constructor(variable: string) {
    this.variable = variable
  }
}

const hasEmptyKey = (options: unknown): boolean =>
  typeof options === "object" && options !== null && "apiKey" in options && Redacted.isRedacted(options.apiKey) &&
  String(Redacted.value(options.apiKey)).trim() === ""

/** A variable that may be missing or empty. */
export const optionalVariable = (name: string): Config.Config<string | undefined> =>
  Config.map(Config.option(Config.String(name)), (value) => {
    const text = Option.getOrUndefined(value)
    return text === "" ? undefined : text
  })

// -----------------------------------------------------------------------------
// the class
// -----------------------------------------------------------------------------

/**
 * A provider of one vendor: a Context tag whose service is the provider itself, with the ways to build it.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProviderClass<Self, Id extends string, Options> extends Context.Key<Self, LlmProvider> {
  new(_: never): Context.ServiceClass.Shape<Id, LlmProvider>
  readonly key: Id
  readonly of: (self: LlmProvider) => LlmProvider
  readonly context: (self: LlmProvider) => Context.Context<Self>
  /** The provider as a value, for lists of providers that are known only at run time. */
  readonly make: (options: Options) => Effect.Effect<LlmProvider, LlmConfigError, HttpClient>
  /** Provides this tag. Layers are shared by reference: call it once and keep the result. */
  readonly layer: (options: Options) => Layer.Layer<Self, LlmConfigError, HttpClient>
  /** The same from configuration; without an argument, from the vendor's usual environment variables. */
  readonly layerConfig: (
    options?: Config.Wrap<Options>
  ) => Layer.Layer<Self, LlmConfigError | Config.ConfigError, HttpClient>
  /**
   * Like `layerConfig`, for a vendor that is asked only where there is a key for it: without one, clients leave its target
   * out, and say so in the log. A client whose targets are all left out is not built.
   */
  readonly layerConfigOptional: (
    options?: Config.Wrap<Options>
  ) => Layer.Layer<Self, LlmConfigError | Config.ConfigError, HttpClient>
  /**
   * Defines another tag of the same vendor, for a second account or region:
   * `class OpenAiEu extends OpenAi.Service<OpenAiEu>()("app/OpenAiEu") {}`.
   */
  readonly Service:
    & LlmProvider // a phantom of every tag: the type of its service
    & (<Other>() => <const OtherId extends string>(id: OtherId) => ProviderClass<Other, OtherId, Options>)
}

type Made = Effect.Effect<LlmProvider, LlmConfigError, HttpClient>

export interface Vendor<Options> {
  readonly id: string
  readonly make: (options: Options) => Made
  /** Reads the vendor's usual environment variables. */
  readonly config: Config.Config<Options>
}

const notSet = (path: string): LlmConfigError =>
  withoutStack(() => new LlmConfigError({ path, rule: "set", kind: "missing" }))

/** A provider that nobody can ask. */
const absent = (id: string, missing: string): LlmProvider => {
  const refused = Effect.suspend(() =>
    Effect.fail(providerError(id, { reason: { _tag: "Authentication" }, code: "missing_key" }))
  )
  return { id, missing, generate: () => refused, stream: () => Stream.fromEffect(refused) }
}

export const provider =
  <Options>(vendor: Vendor<Options>) =>
  <Self>() =>
  <const Id extends string>(id: Id): ProviderClass<Self, Id, Options> => {
    const tag = Context.Service<Self, LlmProvider>()(id)
    const configured = (options: Config.Wrap<Options> | undefined, orElse: (variable: string) => Made) =>
      Layer.effect(
        tag,
        Effect.flatMap(
          read(options === undefined ? vendor.config : Config.unwrap(options)),
          (found) => found instanceof Missing ? orElse(found.variable) : vendor.make(found)
        )
      )
    return Object.assign(tag, {
      make: vendor.make,
      layer: (options: Options) => Layer.effect(tag, vendor.make(options)),
      layerConfig: (options?: Config.Wrap<Options>) => configured(options, (variable) => Effect.fail(notSet(variable))),
      layerConfigOptional: (options?: Config.Wrap<Options>) =>
        configured(options, (variable) => Effect.succeed(absent(vendor.id, variable))),
      Service: provider(vendor)
    })
  }
