// One stream, read by whoever asks: texts, parts and the whole response share one place in it.
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { LlmStream } from "../../LlmClient.ts"
import type { LlmResponse, StreamPart } from "../../LlmResponse.ts"
import type { Run } from "./run.ts"

interface Opened {
  readonly pull: Effect.Effect<ReadonlyArray<StreamPart>, unknown>
  readonly response: Effect.Effect<LlmResponse, unknown>
  readonly reading: Scope.Closeable
}

export class Reader {
  private readonly open: Effect.Effect<LlmStream<unknown>, unknown, Scope.Scope>
  private readonly runner: Run
  private readonly signal: AbortSignal | undefined
  private readonly scope = Scope.makeUnsafe()
  private readonly buffer: Array<StreamPart> = []
  private opened: Promise<Opened> | undefined
  /** The read under way; there is one at a time. */
  private reading: Promise<void> | undefined
  private whole: Promise<LlmResponse> | undefined
  private ended = false
  private failure: { readonly error: unknown } | undefined

  constructor(
    open: Effect.Effect<LlmStream<unknown>, unknown, Scope.Scope>,
    runner: Run,
    signal: AbortSignal | undefined
  ) {
    this.open = open
    this.runner = runner
    this.signal = signal
  }

  private run<A>(effect: Effect.Effect<A, unknown>): Promise<A> {
    return this.runner(effect, this.signal)
  }

  /** The signal's. Also while nobody reads: the connection is closed at once. */
  handleEvent(): void {
    Effect.runFork(Scope.close(this.scope, Exit.void))
  }

  private start(): Promise<Opened> {
    return this.opened ??= this.run(Effect.suspend(() => {
      const reading = Scope.forkUnsafe(this.scope)
      this.signal?.addEventListener("abort", this, { once: true })
      return Effect.flatMap(
        Scope.provide(this.open, this.scope),
        ({ parts, response }) =>
          Effect.map(Scope.provide(Stream.toPull(parts), reading), (pull) => ({ pull, response, reading }))
      )
    }))
  }

  private async finish(): Promise<void> {
    this.signal?.removeEventListener("abort", this)
    await Effect.runPromise(Scope.close(this.scope, Exit.void))
  }

  private fill(): Promise<void> {
    return this.reading ??= (async () => {
      try {
        const { pull, reading } = await this.start()
        const chunk = await this.run(Effect.matchCauseEffect(pull, {
          onSuccess: (parts) => Effect.succeed<ReadonlyArray<StreamPart> | undefined>(parts),
          onFailure: (cause) =>
            Pull.isDoneCause(cause) ? Effect.as(Scope.close(reading, Exit.void), undefined) : Effect.failCause(cause)
        }))
        if (chunk === undefined) this.ended = true
        else this.buffer.push(...chunk)
      } catch (error) {
        this.ended = true
        this.failure ??= { error }
        await this.finish()
      } finally {
        this.reading = undefined
      }
    })()
  }

  /** Leaving the loop early leaves the stream. */
  readonly parts: AsyncIterable<StreamPart> = this.iterable(partsOf)

  readonly texts: AsyncIterable<string> = this.iterable(textsOf)

  private iterable<A>(read: (reader: Reader) => AsyncGenerator<A, void>): AsyncIterable<A> {
    return {
      [Symbol.asyncIterator]: (): AsyncIterator<A, void> => {
        const reading = read(this)
        return {
          next: () => reading.next(),
          // A generator's own waits for the read under way, and so does a web stream that is made of it and cancelled.
          return: async () => {
            const ended = reading.return()
            await this.leave()
            return this.whole === undefined ? ended : { done: true, value: undefined }
          }
        }
      }
    }
  }

  async next(): Promise<IteratorResult<StreamPart, undefined>> {
    while (this.buffer.length === 0 && !this.ended) await this.fill()
    const part = this.buffer.shift()
    if (part !== undefined) return { done: false, value: part }
    if (this.failure !== undefined) throw this.failure.error
    await this.leave()
    return { done: true, value: undefined }
  }

  /** Nobody reads on. Who waits for the response still gets it. */
  async leave(): Promise<void> {
    if (this.whole !== undefined) return
    // An answer that is complete is still told to who asks for it.
    if (this.ended && this.failure === undefined) await ignoring(this.response())
    else {
      this.ended = true
      this.failure ??= { error: new DOMException("The stream was left before its end.", "AbortError") }
      await this.finish()
    }
  }

  /** Reads what nobody has read; it stays there for those who ask for parts later. */
  response(): Promise<LlmResponse> {
    return this.whole ??= (async () => {
      while (!this.ended) await this.fill()
      if (this.failure !== undefined) throw this.failure.error
      try {
        const { response } = await this.start()
        return await this.run(response)
      } finally {
        await this.finish()
      }
    })()
  }
}

const ignoring = async (promise: Promise<unknown>): Promise<void> => {
  try {
    await promise
  } catch {
    // Told to who asks for it.
  }
}

async function* partsOf(reader: Reader): AsyncGenerator<StreamPart, void> {
  for (let next = await reader.next(); next.done !== true; next = await reader.next()) yield next.value
}

async function* textsOf(reader: Reader): AsyncGenerator<string, void> {
  for await (const part of partsOf(reader)) {
    if (part.type === "text-delta" && part.delta !== "") yield part.delta
  }
}
