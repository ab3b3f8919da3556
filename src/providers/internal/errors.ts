// How what a transport or a decoder sees becomes a `ProviderError`. Why a server's answer failed, `failure.ts` says.
import type { HttpClientError } from "effect/http/HttpClientError"
import type * as Random from "effect/Random"
import { type ProviderError, providerError, type Reason } from "../../LlmError.ts"
import * as Failure from "./failure.ts"
import { isIdentifier, requestIdOf } from "./headers.ts"
import { listOf } from "./json.ts"

export { providerError }
export { type Facts, type Statuses, type Tag, UNEXPECTED_STATUS } from "./failure.ts"

// -----------------------------------------------------------------------------
// problems of an answer that breaks its protocol
// -----------------------------------------------------------------------------

export const EMPTY_BODY = "the body is empty"
export const NOT_JSON = "the body is not JSON"
export const NOT_DECODED = "the body is compressed in a way that cannot be read"
export const EVENT_NOT_JSON = "an event of the stream is not JSON"
export const WRONG_SHAPE = "the body does not have the shape of the protocol"
export const NO_CHOICE = "the body holds no answer"
export const NESTED = "the JSON is nested deeper than 1,000 levels"
export const ONLY_KEEP_ALIVES = "the stream holds nothing but signs of life"
export const WRONG_FRAME = "a frame of the stream is broken"
export const TOO_LARGE = "the body, or one event of it, is larger than allowed"

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/** What is known about one HTTP exchange once its headers are here. */
export type Exchange =
  & Omit<Failure.Failed, "body">
  & {
    readonly provider: string
    /** Where the names of calls come from that the server gave none. */
    readonly random?: Pick<Random.Random, "nextDoubleUnsafe"> | undefined
  }

/** An answer with a success status that breaks its protocol. */
export const malformed = (exchange: Exchange, problem: string): ProviderError =>
  providerError(exchange.provider, {
    reason: { _tag: "MalformedResponse", problem },
    requestId: Failure.published(requestIdOf(exchange.headers), exchange)
  })

/** A response whose status is not a success. */
export const ofResponse = (exchange: Exchange, body: string): ProviderError =>
  providerError(exchange.provider, Failure.ofResponse({ ...exchange, body }))

/** An error that came inside an answer with a success status: its headers say nothing about it. */
export const ofEvent = (exchange: Exchange, body: unknown, fallback?: Failure.Tag): ProviderError =>
  providerError(exchange.provider, Failure.ofEvent({ ...exchange, body }, fallback))

/** A request that this vendor cannot express, found before anything was sent. */
export const unsupported = (provider: string, code: string): ProviderError =>
  providerError(provider, { reason: { _tag: "InvalidRequest" }, code })

// -----------------------------------------------------------------------------
// transport
// -----------------------------------------------------------------------------

type Kind = NonNullable<Extract<Reason, { readonly _tag: "Network" }>["kind"]>

// What the codes of Node, undici, OpenSSL and Bun say about how far a request came.
const kinds: ReadonlyMap<string, Kind> = new Map(
  ([
    ["dns", "ENOTFOUND EAI_AGAIN EAI_FAIL EAI_NODATA EAI_NONAME ENODATA ESERVFAIL"],
    ["connect", "ECONNREFUSED EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN UND_ERR_CONNECT_TIMEOUT ConnectionRefused"],
    ["local", "EMFILE ENFILE EADDRNOTAVAIL ENOBUFS"],
    ["reset", "ECONNRESET ECONNABORTED EPIPE UND_ERR_SOCKET ConnectionClosed"],
    [
      "tls",
      "CERT_HAS_EXPIRED CERT_NOT_YET_VALID CERT_REVOKED CERT_UNTRUSTED CERT_REJECTED CERT_CHAIN_TOO_LONG"
      + " CERT_SIGNATURE_FAILURE DEPTH_ZERO_SELF_SIGNED_CERT SELF_SIGNED_CERT_IN_CHAIN HOSTNAME_MISMATCH INVALID_CA"
      + " INVALID_PURPOSE UNABLE_TO_GET_ISSUER_CERT UNABLE_TO_GET_ISSUER_CERT_LOCALLY UNABLE_TO_VERIFY_LEAF_SIGNATURE"
      + " ERR_TLS_CERT_ALTNAME_INVALID ERR_TLS_CERT_ALTNAME_FORMAT EPROTO"
    ]
  ] as const).flatMap(([kind, codes]) => codes.split(" ").map((code): [string, Kind] => [code, kind]))
)

const kindOf = (code: string): Kind | undefined => kinds.get(code) ?? (code.startsWith("ERR_SSL_") ? "tls" : undefined)

// Of several codes, such as one for each address of a host, the first of these speaks for all.
const telling: ReadonlyArray<Kind> = ["local", "tls", "reset"]

// Only what broke an open connection can have reached the provider.
const isUnsent = (code: string): boolean => {
  const kind = kindOf(code)
  return kind !== undefined && kind !== "reset"
}

/** What the system and undici say of what went wrong. */
interface SystemError {
  readonly cause?: unknown
  readonly code?: unknown
  readonly errors?: unknown
  readonly address?: unknown
  readonly hostname?: unknown
  readonly port?: unknown
}

/** An error, what caused it, and what that was made of: one for each address of a host. */
const causesOf = (error: unknown, depth = 0): ReadonlyArray<SystemError> => {
  if (typeof error !== "object" || error === null || depth > 5) return []
  const { cause, errors }: SystemError = error
  return [
    error,
    ...causesOf(cause, depth + 1),
    ...listOf(errors).slice(0, 32).flatMap((inner) => causesOf(inner, depth + 1))
  ]
}

const codesOf = (causes: ReadonlyArray<SystemError>): ReadonlyArray<string> =>
  causes.flatMap(({ code }) => typeof code === "string" ? [code] : [])

/** A failure before the response's headers. */
export const ofTransport = (provider: string, error: HttpClientError): ProviderError => {
  const { reason } = error
  if (reason._tag === "EncodeError" || reason._tag === "InvalidUrlError") return unsupported(provider, reason._tag)
  const causes = causesOf(reason)
  const codes = codesOf(causes)
  const found = codes.map(kindOf)
  const kind = telling.find((kind) => found.includes(kind)) ?? found.find((kind) => kind !== undefined)
  const sent = codes.length === 0 || !codes.every(isUnsent)
  return providerError(provider, {
    reason: network(sent, kind),
    code: codes.find(isIdentifier),
    host: hostOf(error, causes)
  })
}

/** The host that could not be reached: the vendor's, unless the system names another one, which is a proxy. */
const hostOf = ({ request: { url } }: HttpClientError, causes: ReadonlyArray<SystemError>): string | undefined => {
  if (!URL.canParse(url)) return undefined
  const { host, hostname, port, protocol } = new URL(url)
  const due = port === "" ? (protocol === "https:" ? 443 : 80) : Number(port)
  for (const cause of causes) {
    // Of a name only the look-up tells, of a connection only address and port; an address can be anybody's.
    if (typeof cause.hostname === "string" && cause.hostname !== hostname) return cause.hostname
    if (typeof cause.address === "string" && typeof cause.port === "number" && cause.port !== due) {
      return cause.address.includes(":") ? `[${cause.address}]:${cause.port}` : `${cause.address}:${cause.port}`
    }
  }
  return host
}

const network = (sent: boolean, kind: Kind | undefined): Reason =>
  kind === undefined ? { _tag: "Network", sent } : { _tag: "Network", sent, kind }

/** The connection broke inside the body. */
export const ofBody = (exchange: Exchange, error: HttpClientError): ProviderError =>
  error.reason._tag === "EmptyBodyError"
    ? malformed(exchange, EMPTY_BODY)
    : providerError(exchange.provider, {
      reason: network(true, "reset"),
      code: codesOf(causesOf(error.reason)).find(isIdentifier),
      host: hostOf(error, []),
      requestId: Failure.published(requestIdOf(exchange.headers), exchange)
    })
