// One request and its answer, as undici tells of them: the handler of one dispatch.
import type * as Undici from "@effect/platform-node/Undici"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Pull from "effect/Pull"
import { Readable } from "node:stream"

/** Bytes that wait for a reader before the connection is paused. */
const ROOM = 16_384

/** Why a request ends that nobody wants any more. `code` is undici's own, so that interceptors do not try again. */
const abandoned = Object.assign(new Error("The request was given up"), { code: "UND_ERR_ABORTED" })

const settled = Promise.resolve()
const noop = (): void => {}

/** The head of an answer. */
export interface Head {
  readonly status: number
  readonly headers: Undici.Dispatcher.ResponseData["headers"]
}

type Chunks = [Uint8Array, ...Array<Uint8Array>]

/**
 * Undici calls the `on…` methods out of its parser. Whoever waits is woken a microtask later: by then all that one read of
 * the socket brought is here, so a small answer wakes once, and no code of others runs inside the parser. Fibres go on in
 * the async context in which they stopped, so the socket's is nobody's.
 */
export class Exchange implements Undici.Dispatcher.DispatchHandler {
  /** How the body is read: in pieces, once, or as a whole, as often as wanted. */
  reading: "pieces" | "whole" | undefined
  /** Nothing more will come. */
  over = false

  private readonly signal: AbortSignal | undefined
  /** Undici may still hold it in its queue, and read it when its turn comes. */
  private options: Undici.Dispatcher.DispatchOptions | undefined
  /** Here once the request is put on a connection, and then able to close it. */
  private controller: Undici.Dispatcher.DispatchController | undefined
  private head: Head | undefined
  private chunks: Array<Uint8Array> = []
  private buffered = 0
  private paused = false
  private failure: { readonly cause: unknown } | undefined
  /** Made before it is put here: V8 makes a function old at once that is written into a field. */
  private waiting: (() => void) | undefined
  private waking = false

  /** The end of `signal`, where there is one, is the end of this. */
  constructor(signal?: AbortSignal) {
    this.signal = signal
  }

  // ---------------------------------------------------------------------------
  // what undici says
  // ---------------------------------------------------------------------------

  onRequestStart(controller: Undici.Dispatcher.DispatchController): void {
    // Its turn has come, and nobody wants it. To throw leaves the connection to others; to abort would close it.
    if (this.over) throw abandoned
    this.controller = controller
  }

  onResponseStart(_: unknown, status: number, headers: Head["headers"]): void {
    if (status < 200) return
    this.head = { status, headers }
    this.wake()
  }

  onResponseData(controller: Undici.Dispatcher.DispatchController, chunk: Uint8Array): void {
    this.chunks.push(chunk)
    if (this.reading === "whole") return
    this.buffered += chunk.byteLength
    // Who waits takes all of it.
    if (this.waiting !== undefined) return this.wake()
    if (this.buffered >= ROOM && !this.paused) {
      this.paused = true
      controller.pause()
    }
  }

  onResponseEnd(): void {
    this.end()
  }

  onResponseError(_: unknown, cause: unknown): void {
    if (this.over) return
    this.failure = { cause }
    this.end()
  }

  // ---------------------------------------------------------------------------
  // what the caller does
  // ---------------------------------------------------------------------------

  /** Sends the request, and waits for the head of its answer. */
  send<A, E>(
    dispatcher: Undici.Dispatcher,
    options: Undici.Dispatcher.DispatchOptions,
    answered: (head: Head) => A,
    failed: (cause: unknown) => E
  ): Effect.Effect<A, E> {
    return Effect.callback<A, E>((resume) => {
      this.options = options
      const begun = () =>
        resume(this.head === undefined ? Effect.fail(failed(this.failure?.cause)) : Effect.succeed(answered(this.head)))
      this.waiting = begun
      if (this.signal?.aborted === true) this.handleEvent()
      else {
        this.signal?.addEventListener("abort", this)
        try {
          dispatcher.dispatch(options, this)
        } catch (cause) {
          this.onResponseError(undefined, cause)
        }
      }
      return this.giveUp()
    })
  }

  /** What is here of the body, or else what comes next. */
  pull<E>(failed: (cause: unknown) => E): Pull.Pull<Chunks, E> {
    if (this.chunks.length > 0) {
      const { chunks } = this
      this.chunks = []
      this.flow()
      return Effect.succeed(chunks as Chunks)
    }
    if (this.failure !== undefined) return Effect.fail(failed(this.failure.cause))
    if (this.over) return Cause.done()
    return Effect.callback<Chunks, E | Cause.Done>((resume) => {
      const woken = () => resume(this.pull(failed))
      this.waiting = woken
      return Effect.sync(() => {
        if (this.waiting === woken) this.waiting = undefined
      })
    })
  }

  /** The whole body. Who of its readers gives up ends it for all. */
  collect<E>(failed: (cause: unknown) => E): Effect.Effect<Uint8Array, E> {
    if (this.failure !== undefined) return Effect.fail(failed(this.failure.cause))
    if (this.over) {
      if (this.chunks.length !== 1) this.chunks = [Buffer.concat(this.chunks)]
      return Effect.succeed(this.chunks[0]!)
    }
    this.flow()
    return Effect.callback<Uint8Array, E>((resume) => {
      const others = this.waiting
      const ended = () => {
        others?.()
        resume(this.collect(failed))
      }
      this.waiting = ended
      return this.giveUp()
    })
  }

  /** Ends what is under way, and its connection with it. */
  abort(cause: unknown): void {
    if (this.over) return
    const { controller, options } = this
    this.failure = { cause }
    this.chunks = []
    this.end()
    if (controller !== undefined) return controller.abort(abandoned)
    // It waits in undici's queue, which lets it go only when its turn comes. Its body need not wait with it.
    if (options === undefined) return
    if (options.body instanceof Readable) options.body.on("error", noop).destroy()
    options.body = null
  }

  giveUp(): Effect.Effect<void> {
    return Effect.sync(() => this.abort(abandoned))
  }

  /** The signal's. */
  handleEvent(): void {
    this.abort(this.signal?.reason)
  }

  private flow(): void {
    this.buffered = 0
    if (!this.paused) return
    this.paused = false
    this.controller?.resume()
  }

  private end(): void {
    this.over = true
    this.controller = this.options = undefined
    this.signal?.removeEventListener("abort", this)
    this.wake()
  }

  private wake(): void {
    if (this.waiting === undefined || this.waking) return
    this.waking = true
    void settled.then(() => {
      const { waiting } = this
      this.waking = false
      this.waiting = undefined
      waiting?.()
    })
  }
}
