// Bodies that come compressed although the request asked for none. A `fetch` has decoded them and keeps the header all
// the same; other clients have not. So the bytes decide: compressed ones are never text.
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { HttpClientError } from "effect/http/HttpClientError"
import type { HttpClientResponse } from "effect/http/HttpClientResponse"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Headers } from "./headers.ts"

/** The body is compressed in a way that this runtime, or nobody, can read. */
export class Undecodable {
  readonly _tag = "Undecodable"
}

type Bytes = Stream.Stream<Uint8Array, HttpClientError | Undecodable>

// Brotli is a format of the web's streams in Node since 22.20 and 24.7, and in Safari.
const formats: ReadonlyMap<string, string> = new Map([
  ["gzip", "gzip"],
  ["x-gzip", "gzip"],
  ["deflate", "deflate"],
  ["br", "brotli"],
  ["zstd", "zstd"]
])
const mostCodings = 3

const codingsOf = (headers: Headers): ReadonlyArray<string> =>
  (headers["content-encoding"] ?? "").toLowerCase().split(",").map((coding) => coding.trim()).filter((coding) =>
    coding !== "" && coding !== "identity"
  )

/** Was a coding named? Then the length that the headers tell is not that of the text. */
export const isCoded = (headers: Headers): boolean =>
  headers["content-encoding"] !== undefined && codingsOf(headers).length > 0

const enough = 16 // bytes that tell compressed ones from text
// oxlint-disable-next-line no-control-regex -- what no text holds
const controls = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/

const isText = (head: Uint8Array): boolean => {
  try {
    return !controls.test(new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true }))
  } catch {
    return false
  }
}

/** Some send deflate without the two bytes of its container, which are a multiple of 31. */
const formatOf = (coding: string, head: Uint8Array): string | undefined => {
  const [first = 0, second = 0] = head
  return coding === "deflate" && ((first & 0x0f) !== 8 || (first * 256 + second) % 31 !== 0)
    ? "deflate-raw"
    : formats.get(coding)
}

const joined = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const out = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0))
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.byteLength
  }
  return out
}

type Decompressor = new(format: string) => ReadableWritablePair<Uint8Array, Uint8Array>

const decompressed = (format: string, bytes: Bytes): Bytes =>
  Stream.suspend((): Bytes => {
    let transform: ReadableWritablePair<Uint8Array, Uint8Array>
    try {
      // Not every runtime has it, and it refuses a format that it does not know.
      transform = new (globalThis.DecompressionStream as never as Decompressor)(format)
    } catch {
      return Stream.fail(new Undecodable())
    }
    return Stream.fromReadableStream({
      evaluate: () => Stream.toReadableStream(bytes).pipeThrough(transform),
      onError: (cause) => cause instanceof HttpClientError ? cause : new Undecodable()
    })
  })

/** Undoes one coding, unless the bytes show that it was undone before. */
const decode = (coding: string, bytes: Bytes): Bytes =>
  Stream.transformPull(bytes, (pull, scope) =>
    Effect.suspend(() => {
      const head: Array<Uint8Array> = []
      let length = 0
      let over = false
      const gather: Effect.Effect<void, HttpClientError | Undecodable> = Effect.suspend(() =>
        length >= enough || over ? Effect.void : Effect.andThen(
          Pull.matchEffect(pull, {
            onSuccess: (chunks) => {
              for (const chunk of chunks) {
                head.push(chunk)
                length += chunk.byteLength
              }
              return Effect.void
            },
            onFailure: Effect.failCause,
            onDone: () => {
              over = true
              return Effect.void
            }
          }),
          gather
        )
      )
      const rest: Bytes = Stream.fromPull(Effect.succeed(Effect.suspend(() => over ? Cause.done() : pull)))
      return Effect.flatMap(gather, () => {
        const start = joined(head)
        const whole = length === 0 ? rest : Stream.concat(Stream.succeed(start), rest)
        if (isText(start)) return Effect.provideService(Stream.toPull(whole), Scope.Scope, scope)
        const format = formatOf(coding, start)
        return Effect.provideService(
          Stream.toPull(format === undefined ? Stream.fail(new Undecodable()) : decompressed(format, whole)),
          Scope.Scope,
          scope
        )
      })
    }))

/** The bytes of a body as they were before anybody compressed them. */
export const bytesOf = (response: HttpClientResponse): Bytes => {
  const codings = isCoded(response.headers) ? codingsOf(response.headers) : []
  if (codings.length > mostCodings) return Stream.fail(new Undecodable())
  return codings.reduceRight((bytes: Bytes, coding) => decode(coding, bytes), response.stream)
}
