// An answer as Effect's clients give it, over an exchange.
import * as Channel from "effect/Channel"
import * as Effect from "effect/Effect"
import * as Cookies from "effect/http/Cookies"
import * as Headers from "effect/http/Headers"
import { DecodeError, HttpClientError, StatusCodeError } from "effect/http/HttpClientError"
import type { HttpClientRequest } from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as UrlParams from "effect/http/UrlParams"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type * as Socket from "effect/socket/Socket"
import * as Stream from "effect/Stream"
import type { Exchange, Head } from "./exchange.ts"

const utf8 = new TextDecoder()
const formUtf8 = new TextDecoder("utf-8", { ignoreBOM: true })
const readBefore = new Error("The body was read before")

export class Response extends Inspectable.Class implements HttpClientResponse.HttpClientResponse, Pipeable {
  readonly [HttpIncomingMessage.TypeId]: typeof HttpIncomingMessage.TypeId = HttpIncomingMessage.TypeId
  readonly [HttpClientResponse.TypeId]: typeof HttpClientResponse.TypeId = HttpClientResponse.TypeId
  readonly request: HttpClientRequest
  readonly status: number
  private readonly source: URL
  private readonly exchange: Exchange
  private readonly sent: Head["headers"]
  private knownHeaders: Headers.Headers | undefined
  private knownCookies: Cookies.Cookies | undefined

  constructor(request: HttpClientRequest, source: URL, exchange: Exchange, head: Head) {
    super()
    this.request = request
    this.source = source
    this.exchange = exchange
    this.status = head.status
    this.sent = head.headers
  }

  get url(): string {
    return this.source.href.split("#")[0]!
  }

  get headers(): Headers.Headers {
    return this.knownHeaders ??= Headers.fromInput(this.sent)
  }

  get cookies(): Cookies.Cookies {
    return this.knownCookies ??= Cookies.fromSetCookie(this.sent["set-cookie"] ?? [])
  }

  get remoteAddress(): Option.Option<string> {
    return Option.none()
  }

  get stream(): Stream.Stream<Uint8Array, HttpClientError> {
    return Stream.fromChannel(Channel.fromTransform((_, scope) => {
      const { exchange } = this
      if (exchange.reading !== undefined) return Effect.fail(this.undecodable(readBefore))
      exchange.reading = "pieces"
      const failed = (cause: unknown): HttpClientError => this.undecodable(cause)
      return Effect.as(Scope.addFinalizer(scope, exchange.giveUp()), Effect.suspend(() => exchange.pull(failed)))
    }))
  }

  private get whole(): Effect.Effect<Uint8Array, HttpClientError> {
    return Effect.suspend(() => {
      const { exchange } = this
      if (exchange.reading === "pieces") return Effect.fail(this.undecodable(readBefore))
      exchange.reading = "whole"
      return exchange.collect((cause) => this.undecodable(cause))
    })
  }

  get arrayBuffer(): Effect.Effect<ArrayBuffer, HttpClientError> {
    return Effect.map(this.whole, (bytes) => new Uint8Array(bytes).buffer)
  }

  get text(): Effect.Effect<string, HttpClientError> {
    return Effect.map(this.whole, (bytes) => utf8.decode(bytes))
  }

  get json(): Effect.Effect<Schema.Json, HttpClientError> {
    return this.decoding((bytes) => {
      const text = utf8.decode(bytes)
      return text === "" ? null : JSON.parse(text)
    })
  }

  get urlParamsBody(): Effect.Effect<UrlParams.UrlParams, HttpClientError> {
    // A leading "?" is data; URLSearchParams would drop it as a query prefix.
    return this.decoding((bytes) =>
      UrlParams.fromInput(new URLSearchParams(formUtf8.decode(bytes).replace(/^\?/, "%3F")))
    )
  }

  get formData(): Effect.Effect<FormData, HttpClientError> {
    return Effect.flatMap(this.whole, (bytes) =>
      Effect.tryPromise({
        try: () => new globalThis.Response(new Uint8Array(bytes), { headers: this.headers }).formData(),
        catch: (cause) => this.undecodable(cause)
      }))
  }

  get upgrade(): Effect.Effect<Socket.Socket, HttpClientError> {
    return Effect.fail(
      new HttpClientError({
        reason: new StatusCodeError({
          request: this.request,
          response: this,
          description: "this client does not hand over connections"
        })
      })
    )
  }

  toJSON(): unknown {
    return HttpIncomingMessage.inspect(this, {
      _id: "effect/http/HttpClientResponse",
      request: this.request.toJSON(),
      status: this.status
    })
  }

  pipe() {
    return pipeArguments(this, arguments)
  }

  private decoding<A>(decode: (bytes: Uint8Array) => A): Effect.Effect<A, HttpClientError> {
    return Effect.flatMap(
      this.whole,
      (bytes) => Effect.try({ try: () => decode(bytes), catch: (cause) => this.undecodable(cause) })
    )
  }

  private undecodable(cause: unknown): HttpClientError {
    return new HttpClientError({ reason: new DecodeError({ request: this.request, response: this, cause }) })
  }
}
