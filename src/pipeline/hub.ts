// Where the events of one client go.
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Listener, LlmEvent } from "../LlmEvent.ts"

/**
 * Where events go: bounded, and free while nobody listens. A slow listener loses the oldest events, never the caller's
 * time.
 */
export interface Hub {
  /** `caller` is the context of the fibre that made the call; without one, that of the client. */
  readonly publish: (event: LlmEvent, caller?: Context.Context<never>) => void
  /** Adds a listener that is told of every event while it happens; see `LlmObserver`. */
  readonly listen: (listener: Listener) => void
  readonly events: Stream.Stream<LlmEvent>
}

/** Events that are kept for a reader of the stream who is slow. */
export const CAPACITY = 1024

/** Creates a hub that keeps at most `capacity` events per reader of its stream. Its streams end with the scope. */
export const makeHub = (capacity = CAPACITY): Effect.Effect<Hub, never, Scope.Scope> =>
  Effect.gen(function*() {
    const own = yield* Effect.context()
    const told = new Set<Listener>()
    const tell = (listener: Listener, event: LlmEvent, caller: Context.Context<never>): void => {
      try {
        listener(event, caller)
      } catch (error) {
        told.delete(listener)
        Effect.runForkWith(own)(Effect.logWarning("A listener threw and is told nothing more", Cause.die(error)))
      }
    }
    const listeners = new Set<Queue.Queue<LlmEvent, Cause.Done>>()
    let isOver = false
    yield* Effect.addFinalizer(() => {
      isOver = true
      return Effect.sync(() => {
        for (const queue of listeners) Queue.endUnsafe(queue)
      })
    })
    const listen = Effect.acquireRelease(
      Effect.tap(Queue.sliding<LlmEvent, Cause.Done>(capacity), (queue) => {
        listeners.add(queue)
        return isOver ? Queue.end(queue) : Effect.void
      }),
      (queue) => {
        listeners.delete(queue)
        return Queue.shutdown(queue)
      }
    )
    return {
      publish: (event, caller = own) => {
        if (told.size > 0) { for (const listener of told) tell(listener, event, caller) }
        if (listeners.size > 0) { for (const queue of listeners) Queue.offerUnsafe(queue, event) }
      },
      listen: (listener) => told.add(listener),
      events: Stream.unwrap(Effect.map(listen, Stream.fromQueue))
    }
  })
