// The transport of all vendors: one POST, its bounded body, and the stream of its events. No retries in here.
import type * as Response from "effect/ai/Response"
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpHeaders from "effect/http/Headers"
import * as HttpBody from "effect/http/HttpBody"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type { HttpClientResponse } from "effect/http/HttpClientResponse"
import * as UrlParams from "effect/http/UrlParams"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { notFollowing } from "../../internal/redirects.ts"
import { sha256 } from "../../internal/sha256.ts"
import { ProviderError } from "../../LlmError.ts"
import type { Change, LlmProvider } from "../../LlmProvider.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { bytesOf, isCoded, Undecodable } from "./encoding.ts"
import {
  type Exchange,
  malformed,
  NOT_DECODED,
  ofBody,
  ofResponse,
  ofTransport,
  type Statuses,
  TOO_LARGE,
  unsupported
} from "./errors.ts"
import { bodyReader, decodeWhole } from "./events.ts"
import { type Fields, wellFormed } from "./json.ts"
import { Assembler } from "./parts.ts"
import type * as Sse from "./Sse.ts"

/** Reads the events of one answer into an {@link Assembler}. All of it may throw `ProviderError`. */
export interface StreamDecoder {
  /** An event whose data is JSON. */
  readonly event: (name: string, data: unknown) => void
  /** The `[DONE]` marker. */
  readonly marker?: () => void
  /** The body ended by itself: the last chance to find that the answer is whole. */
  readonly end?: () => void
}

/** A wire protocol as plain functions. They throw `ProviderError`, and nothing else whatever the server sends. */
export interface Protocol {
  /** See `LlmProvider.vendor`. */
  readonly vendor: string
  /** See `LlmProvider.changes`; `model` is the one that will be asked. */
  readonly changes: (request: LlmRequest, model: string) => ReadonlyArray<Change>
  readonly encode: (request: LlmRequest, model: string, stream: boolean) => Fields
  readonly decode: (body: unknown, exchange: Exchange) => ReadonlyArray<Response.PartEncoded>
  readonly stream: (assembler: Assembler, exchange: Exchange) => StreamDecoder
  /** Cuts the body of a stream into events; as server-sent events by default. */
  readonly frames?: typeof Sse.make
  /** Where a stream comes in binary frames: its media type, and what turns bytes into the text of events. */
  readonly binary?: Binary | undefined
}

export interface Binary {
  readonly mediaType: string
  /** May throw `ProviderError`, after it has given to `feed` what came before. */
  readonly decoder: (exchange: Exchange, maxLength: number, feed: (text: string) => void) => (chunk: Uint8Array) => void
}

export interface Endpoint {
  readonly id: string
  readonly defaultModel: string | undefined
  readonly models: Readonly<Record<string, string>> | undefined
  /** The address, or how it follows from the model. */
  readonly url: string | ((model: string, stream: boolean) => string)
  readonly headers: Readonly<Record<string, string>>
  /** Headers of one request, where what they hold expires or signs it. */
  readonly credentials?:
    | ((
      request: HttpClientRequest.HttpClientRequest
    ) => Effect.Effect<Readonly<Record<string, string>>, ProviderError>)
    | undefined
  /** Names of headers that hold secrets or identify the account. */
  readonly secretHeaders: ReadonlyArray<string>
  readonly maxBodyBytes: number
  /** See `LlmProvider.reasoning`. */
  readonly reasoning: string | false
  readonly statuses?: Statuses | undefined
  readonly protocol: Protocol
}

/** An answer of which nothing was read, and what must not be published of its request. */
interface Opened {
  readonly response: HttpClientResponse
  readonly secrets: ReadonlyArray<string>
}

const maxErrorBytes = 65_536
const errorLimit = "1 second"
const drainLimit = "100 millis"
const JSON_TYPE = "application/json"
const isJson = /^\s*application\/(?:[\w.-]+\+)?json\b/i
// Those that Effect keeps out of spans by itself.
const keyHeaders = ["authorization", "x-api-key", "cookie"]
const always = (): boolean => true

/** A scope of the caller's own has nothing to do with one request. */
const withoutScope = (context: Context.Context<never>): Context.Context<never> =>
  Context.getOrUndefined(context, Scope.Scope) === undefined ? context : Context.omit(Scope.Scope)(context)

/** Visible ASCII but for `%`: what stands for itself in a header, when all else is percent-encoded. */
const plain = /^[\x21-\x24\x26-\x7e]*$/
const half = /[\uD800-\uDFFF]/u
const MOST_OF_A_KEY = 255

/** A key as a header can carry it: no two keys alike. */
const headerOf = (key: string): string => {
  if (half.test(key)) return sha256(key)
  const carried = plain.test(key) ? key : encodeURIComponent(key)
  return carried.length > MOST_OF_A_KEY ? sha256(key) : carried
}

/** What a coder threw: a `ProviderError` is a typed failure, anything else a defect. */
const thrown = (error: unknown): Effect.Effect<never, ProviderError> =>
  error instanceof ProviderError ? Effect.fail(error) : Effect.die(error)

/** What of a header's value is secret: behind the scheme, such as `Bearer`. */
const secretsIn = (value: string | undefined): ReadonlyArray<string> =>
  value === undefined ? [] : [value.slice(value.lastIndexOf(" ") + 1)]

// Parameters of addresses that say which API is asked, and how.
const harmless = /^alt$|version/i

/** Parameters of the address that may hold keys, as gateways want them. */
const keysIn = (url: Endpoint["url"]): ReadonlyArray<readonly [name: string, value: string]> => {
  const address = typeof url === "string" ? url : url("model", false)
  return URL.canParse(address) ? [...new URL(address).searchParams].filter(([name]) => !harmless.test(name)) : []
}

export const make = (endpoint: Endpoint): Effect.Effect<LlmProvider, never, HttpClient.HttpClient> =>
  Effect.map(HttpClient.HttpClient, (httpClient) => {
    const { credentials, id, maxBodyBytes, protocol, url } = endpoint
    const client = notFollowing(httpClient)
    // The connection of a stream belongs to a scope from the first byte on, so that an interruption between headers and
    // body closes it. It is closed only when the body was not read to its end: to abort what is over costs a stack trace.
    const scopedClient = HttpClient.withScope(client)
    const secretsOf = (headers: Readonly<Record<string, string>>): ReadonlyArray<string> =>
      [...keyHeaders, ...endpoint.secretHeaders].flatMap((name) => secretsIn(headers[name]))
    const keys = keysIn(url)
    const keyNames = keys.map(([name]) => name)
    const secrets = [...secretsOf(endpoint.headers), ...keys.map(([, value]) => value)]
    // Not every client decodes what comes compressed.
    const templateOf = (accept: string): HttpClientRequest.HttpClientRequest =>
      HttpClientRequest.post(typeof url === "string" ? url : "", {
        headers: { "accept-encoding": "identity", ...endpoint.headers, accept, "content-type": JSON_TYPE }
      })
    const forAnswers = templateOf(JSON_TYPE)
    const forStreams = templateOf(protocol.binary?.mediaType ?? "text/event-stream")

    const prepare = (request: LlmRequest, stream: boolean): HttpClientRequest.HttpClientRequest => {
      const model = request.model ?? endpoint.defaultModel
      if (model === undefined) throw unsupported(id, "missing_model")
      // Sent as a function of the caller's own, another vendor's tool would be called for nothing.
      if (request.tools?.some(({ provider }) => provider !== undefined) === true) {
        const change = protocol.changes(request, model).find(({ action, field }) =>
          field === "tools" && action === "unsupported"
        )
        if (change !== undefined) throw unsupported(id, "unsupported_tool")
      }
      const { hash, headers, method, url: fixed, urlParams } = stream ? forStreams : forAnswers
      const key = request.idempotencyKey
      try {
        const address = typeof url === "string" ? fixed : url(model, stream)
        const body = HttpBody.text(wellFormed(JSON.stringify(protocol.encode(request, model, stream))), JSON_TYPE)
        // A copy, in one step with what the body says of itself.
        const own = HttpHeaders.set(headers, "content-length", String(body.contentLength))
        if (key === undefined) return HttpClientRequest.makeWith(method, address, urlParams, hash, own, body)
        const sent = HttpHeaders.set(own, "idempotency-key", headerOf(key))
        return HttpClientRequest.makeWith(method, address, urlParams, hash, sent, body)
      } catch (error) {
        // Parameters and results of tools can hold what JSON cannot.
        throw error instanceof ProviderError ? error : unsupported(id, "not_serialisable")
      }
    }

    // Vendors get no trace headers of ours, and no span shows their account headers or the keys in their address.
    // Without a tracer there is no span.
    const send = (
      request: HttpClientRequest.HttpClientRequest,
      scope: Scope.Scope | undefined
    ): Effect.Effect<HttpClientResponse, HttpClientError> => {
      const sent = scope === undefined ? client.execute(request) : Scope.provide(scopedClient.execute(request), scope)
      return Effect.updateContext(sent, inside)
    }

    const insideOf = (given: Context.Context<never>): Context.Context<never> => {
      const context = withoutScope(given)
      if (Context.getOrUndefined(context, Tracer.Tracer) === undefined) {
        return Context.add(context, HttpClient.TracerDisabledWhen, always)
      }
      return context.pipe(
        Context.add(HttpClient.TracerPropagationEnabled, false),
        Context.add(HttpHeaders.CurrentRedactedNames, [
          ...Context.get(context, HttpHeaders.CurrentRedactedNames),
          ...endpoint.secretHeaders
        ]),
        Context.add(UrlParams.CurrentRedactedNames, [
          ...Context.get(context, UrlParams.CurrentRedactedNames),
          ...keyNames
        ])
      )
    }

    // A program asks in one context again and again, and what was looked up in one is known.
    let last: Context.Context<never> | undefined
    let known: Context.Context<never> | undefined
    const inside = (given: Context.Context<never>): Context.Context<never> => {
      if (known === undefined || last !== given) {
        known = insideOf(given)
        last = given
      }
      return known
    }

    /** The head of the answer. */
    const open = (request: LlmRequest, scope: Scope.Scope | undefined): Effect.Effect<Opened, ProviderError> =>
      Effect.suspend(() => {
        let prepared: HttpClientRequest.HttpClientRequest
        try {
          prepared = prepare(request, scope !== undefined)
        } catch (error) {
          return thrown(error)
        }
        if (credentials === undefined) return opened(send(prepared, scope), secrets)
        return Effect.flatMap(credentials(prepared), (headers) => {
          const sent = send(HttpClientRequest.setHeaders(prepared, headers), scope)
          return opened(sent, [...secrets, ...secretsOf(headers)])
        })
      })

    const opened = (
      sent: Effect.Effect<HttpClientResponse, HttpClientError>,
      secrets: ReadonlyArray<string>
    ): Effect.Effect<Opened, ProviderError> =>
      Effect.matchEffect(sent, {
        onSuccess: (response) => Effect.succeed({ response, secrets }),
        // A client of the user's may turn statuses into errors.
        onFailure: (error) =>
          error.reason._tag === "StatusCodeError"
            ? Effect.succeed({ response: error.reason.response, secrets })
            : Effect.fail(ofTransport(id, error))
      })

    /** Goes on with what is known of the answer, unless its status says that it is a failure. */
    const judged = <A>(
      { response, secrets }: Opened,
      next: (exchange: Exchange) => Effect.Effect<A, ProviderError>
    ): Effect.Effect<A, ProviderError> =>
      Effect.withFiber((fiber) => {
        const { status } = response
        const exchange: Exchange = {
          provider: id,
          statuses: endpoint.statuses,
          status,
          headers: response.headers,
          now: fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(),
          random: fiber.getRef(Random.Random),
          secrets
        }
        return status >= 200 && status <= 299
          ? next(exchange)
          : Effect.flatMap(readPrefix(response), (body) => Effect.fail(ofResponse(exchange, body)))
      })

    const whole = (answer: Opened): Effect.Effect<ReadonlyArray<Response.PartEncoded>, ProviderError> =>
      judged(answer, (exchange) =>
        Effect.flatMap(readWhole(answer.response, exchange, maxBodyBytes), (text) => {
          try {
            return Effect.succeed(decodeWhole(protocol, exchange, text))
          } catch (error) {
            return thrown(error)
          }
        }))

    return {
      id,
      defaultModel: endpoint.defaultModel,
      models: endpoint.models,
      reasoning: endpoint.reasoning,
      readsMetadata: false,
      vendor: protocol.vendor,
      changes: (request) => protocol.changes(request, request.model ?? endpoint.defaultModel ?? ""),
      generate: (request) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(
            restore(open(request, undefined)),
            (answer) => Effect.onInterrupt(restore(whole(answer)), () => unread(answer.response))
          )
        ),
      stream: (request) =>
        Stream.unwrap(Effect.suspend(() => {
          const scope = Scope.makeUnsafe()
          const body = { over: false }
          return Effect.andThen(
            Effect.addFinalizer((exit) => body.over ? Effect.void : Scope.close(scope, exit)),
            Effect.flatMap(open(request, scope), (answer) =>
              judged(answer, (exchange) =>
                Effect.succeed(events(answer.response, exchange, protocol, maxBodyBytes, body))))
          )
        }))
    }
  })

// -----------------------------------------------------------------------------
// bodies
// -----------------------------------------------------------------------------

/** Closes the connection of an answer whose body was not begun; a body that was begun closes its own. */
const unread = (response: HttpClientResponse): Effect.Effect<void> =>
  Effect.suspend(() => {
    const scope = Scope.makeUnsafe()
    const begun = Scope.provide(Stream.toPull(response.stream), scope)
    return Effect.andThen(Effect.ignoreCause(begun), Scope.close(scope, Exit.interrupt()))
  })

/** Hands decoded text on, until `take` has enough. */
const readText = (
  response: HttpClientResponse,
  take: (text: string, bytes: number) => boolean
): Effect.Effect<void, HttpClientError | Undecodable | "enough"> =>
  Effect.suspend(() => {
    const decoder = new TextDecoder()
    let bytes = 0
    const read = Stream.runForEachArray(bytesOf(response), (chunks) => {
      for (const chunk of chunks) {
        bytes += chunk.byteLength
        if (!take(decoder.decode(chunk, { stream: true }), bytes)) return Effect.fail("enough" as const)
      }
      return Effect.void
    })
    return Effect.tap(read, () => Effect.sync(() => take(decoder.decode(), bytes)))
  })

const readWhole = (
  response: HttpClientResponse,
  exchange: Exchange,
  maxBytes: number
): Effect.Effect<string, ProviderError> => {
  const { headers } = exchange
  // What announces its length cannot be longer, unless it is compressed.
  if (Number(headers["content-length"]) <= maxBytes && !isCoded(headers)) {
    return Effect.mapError(response.text, (error) => ofBody(exchange, error))
  }
  return Effect.suspend(() => {
    let body = ""
    return readText(response, (text, bytes) => {
      body += text
      return bytes <= maxBytes
    }).pipe(
      Effect.map(() => body),
      Effect.mapError((error) => error === "enough" ? malformed(exchange, TOO_LARGE) : ofBytes(exchange, error))
    )
  })
}

const ofBytes = (exchange: Exchange, error: HttpClientError | Undecodable): ProviderError =>
  error instanceof Undecodable ? malformed(exchange, NOT_DECODED) : ofBody(exchange, error)

/** The start of an error body. Its status counts even if the rest is too long, unreadable, slow, or never comes. */
const readPrefix = (response: HttpClientResponse): Effect.Effect<string> =>
  Effect.suspend(() => {
    let body = ""
    return readText(response, (text, bytes) => {
      body += text
      return bytes <= maxErrorBytes
    }).pipe(
      Effect.catch(() => Effect.void),
      Effect.timeoutOption(errorLimit),
      Effect.map(() => body)
    )
  })

// -----------------------------------------------------------------------------
// streams
// -----------------------------------------------------------------------------

type Parts = NonEmptyReadonlyArray<Response.StreamPartEncoded>

/** Gives the text of a stream to `feed`. Not every answer to a request for binary frames comes in them. */
const textOf = (
  binary: Binary | undefined,
  exchange: Exchange,
  maxLength: number,
  feed: (text: string) => void
): { readonly take: (chunk: Uint8Array) => void; readonly end: () => void } => {
  const type = exchange.headers["content-type"] ?? ""
  if (binary !== undefined && type.toLowerCase().startsWith(binary.mediaType)) {
    return { take: binary.decoder(exchange, maxLength, feed), end: () => {} }
  }
  const text = new TextDecoder()
  return { take: (chunk) => feed(text.decode(chunk, { stream: true })), end: () => feed(text.decode()) }
}

/** One array of parts per network chunk that holds any. What arrived before a failure is emitted before it. */
const events = (
  response: HttpClientResponse,
  exchange: Exchange,
  protocol: Protocol,
  maxLength: number,
  body: { over: boolean }
): Stream.Stream<Response.StreamPartEncoded, ProviderError> =>
  Stream.transformPull(bytesOf(response), (pull, scope) =>
    Effect.suspend(() => {
      const assembler = new Assembler(exchange, maxLength)
      const reader = bodyReader(
        protocol,
        exchange,
        assembler,
        maxLength,
        isJson.test(exchange.headers["content-type"] ?? "")
      )
      const text = textOf(protocol.binary, exchange, maxLength, reader.feed)
      let failure: ProviderError | undefined

      const guarded = (step: () => void): void => {
        try {
          step()
        } catch (error) {
          if (!(error instanceof ProviderError)) throw error
          failure = error
        }
      }

      const take = (): Effect.Effect<Parts, ProviderError> | undefined => {
        if (assembler.out.length > 0) {
          const parts = assembler.out
          assembler.out = []
          return Effect.succeed(parts as unknown as Parts)
        }
        return failure === undefined ? undefined : Effect.fail(failure)
      }

      const feed = (chunks: NonEmptyReadonlyArray<Uint8Array>): void => {
        for (const chunk of chunks) text.take(chunk)
      }

      const finish = (): void => {
        body.over = true
        text.end()
        reader.end()
      }

      const read: Pull.Pull<Parts, ProviderError> = Pull.matchEffect(pull, {
        onSuccess: (chunks) => {
          guarded(() => feed(chunks))
          return take() ?? next
        },
        onFailure: (cause) => Effect.failCause(Cause.map(cause, (error) => ofBytes(exchange, error))),
        onDone: () => {
          guarded(finish) // ends with the terminal event or a failure
          return take() ?? next
        }
      })
      const next: Pull.Pull<Parts, ProviderError> = Effect.suspend(() => {
        if (assembler.finished) return Cause.done()
        return failure === undefined ? read : Effect.fail(failure)
      })

      // After the terminal event only the body's end is awaited, shortly, so that its connection can be used again.
      const drained = Effect.catchCause(Effect.forever(pull), (cause) => {
        body.over = Pull.isDoneCause(cause)
        return Effect.void
      })
      const drain = Effect.suspend(() =>
        assembler.finished && !body.over
          ? Effect.timeoutOption(Effect.interruptible(drained), drainLimit)
          : Effect.void
      )
      return Effect.as(Scope.addFinalizer(scope, drain), next)
    }))
