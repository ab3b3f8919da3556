// A consumer's place in an answer that is being streamed: who reads, and what is unread.
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { copy } from "../internal/copy.ts"
import type { DeadlineExceeded, StreamInterrupted } from "../LlmError.ts"
import { fromAnswer, type LlmResponse, type StreamPart } from "../LlmResponse.ts"
import { type Call, ended, failed } from "./call.ts"
import type { Chunk, Served } from "./stage.ts"

type Broken = StreamInterrupted | DeadlineExceeded

type Parts<E> = Pull.Pull<Chunk, E>

/** A consumer's place in a stream: who reads, and what is unread. */
export class Reader<E> {
  private readonly call: Call
  private readonly served: Served
  private readonly scope: Scope.Closeable
  private readonly finished = Deferred.makeUnsafe<LlmResponse, E>()
  private readonly reader = Semaphore.makeUnsafe(1)
  private readonly next: Parts<E>
  private unread: ReadonlyArray<StreamPart>
  /** How it ended, once it has. */
  private over: Exit.Exit<never, E | Cause.Done> | undefined
  private isComplete = false
  /** Somebody asks for the response, and lets the parts go. */
  private isDraining = false

  constructor(call: Call, served: Served, scope: Scope.Closeable) {
    this.call = call
    this.served = served
    this.scope = scope
    // Parts are kept, and there for others too: a consumer gets its own.
    this.unread = copy(served.opening ?? served.answer.parts as ReadonlyArray<StreamPart>)
    this.next = Effect.matchCauseEffect(served.rest ?? Cause.done(), {
      onSuccess: (chunk) => {
        this.unread = copy(chunk)
        return this.hand(chunk.length)
      },
      onFailure: (cause) => this.ended(cause)
    })
  }

  /** The next parts, as they came. */
  readonly chunk: Parts<E> = Effect.suspend(() => this.pull(Infinity))

  /** The next part. A consumer that leaves has taken what it has seen, so the next one goes on there. */
  private readonly part: Parts<E> = Effect.suspend(() => this.pull(1))

  /** One consumer at a time; a second one goes on where the first one stopped. */
  get parts(): Stream.Stream<StreamPart, E> {
    return fromScopedPull(Effect.as(this.reader.takeScoped(1), this.part))
  }

  /** Reads what nobody has read. An answer that is complete is there at once, whoever is still looking at it. */
  readonly response: Effect.Effect<LlmResponse, E> = Effect.andThen(
    Effect.suspend(() => {
      if (this.served.isWhole()) {
        this.complete()
        // Nobody waits until the provider has cleaned up.
        Effect.runForkWith(this.call.root.context)(Scope.close(this.scope, Exit.void), { uninterruptible: true })
      }
      return this.isOver ? Effect.void : this.reader.withPermits(1)(
        Effect.suspend(() => this.isOver ? Effect.void : this.drained)
      )
    }),
    Deferred.await(this.finished)
  )

  private readonly drained: Effect.Effect<void> = Effect.suspend(() => {
    this.isDraining = true
    return Effect.ensuring(Effect.ignore(Effect.forever(this.chunk)), Effect.sync(() => this.isDraining = false))
  })

  /** Nobody will read the rest: the scope is closed. */
  readonly abandoned: Effect.Effect<void> = Effect.sync(() => {
    if (this.isComplete) return
    this.over ??= Exit.interrupt()
    Deferred.doneUnsafe(this.finished, Exit.interrupt())
  })

  private get isOver(): boolean {
    return Deferred.isDoneUnsafe(this.finished)
  }

  private pull(most: number): Parts<E> {
    if (this.unread.length > 0) return this.hand(most)
    if (this.over !== undefined) return this.over
    return this.next
  }

  private hand(most: number): Parts<E> {
    const { unread } = this
    const chunk = unread.length <= most ? unread : unread.slice(0, most)
    this.unread = chunk === unread ? none : unread.slice(most)
    if (this.served.isWhole()) this.complete()
    return Effect.succeed(chunk as Chunk)
  }

  private complete(): void {
    if (this.isComplete) return
    this.isComplete = true
    const { call, finished, served } = this
    ended(call, served.source)
    const ledger = [...call.root.events]
    let made: LlmResponse | undefined
    Deferred.doneUnsafe(
      finished,
      Effect.sync(() => made ??= fromAnswer(served.answer, served.source, served.age, ledger))
    )
  }

  private ended(cause: Cause.Cause<Broken | Cause.Done>): Parts<E> {
    // Parts that it could not get any more are no loss to a response: it says by its `cut` that they are missing.
    if (this.isDraining && this.served.isWhole()) this.complete()
    const error = Cause.findErrorOption(cause)
    const exit = error._tag === "None" || Cause.isDone(error.value)
      ? Exit.failCause(cause)
      : Exit.fail(failed(this.call, error.value))
    this.over = exit as Exit.Exit<never, E | Cause.Done>
    if (!Pull.isDoneCause(cause)) Deferred.doneUnsafe(this.finished, exit as Exit.Exit<never, E>)
    return Effect.andThen(Effect.uninterruptible(Scope.close(this.scope, exit)), this.over)
  }
}

const none: ReadonlyArray<never> = []

/** A stream whose pull lives in the stream's own scope. */
export const fromScopedPull = <E, E2>(
  pull: Effect.Effect<Parts<E>, E2, Scope.Scope>
): Stream.Stream<StreamPart, E | E2> => Stream.transformPull(Stream.empty, (_, scope) => Scope.provide(pull, scope))
