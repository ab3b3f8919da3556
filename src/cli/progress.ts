// One line that says what is going on, redrawn on a terminal, absent in a pipe.
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { monotonicMillis } from "../internal/clock.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import { duration, failure } from "./render.ts"
import { type Device, printable } from "./terminal.ts"

const FRAMES = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
const EVERY = "100 millis"
const CLEAR = "\r\u001b[K"

export interface Progress {
  readonly say: (text: string) => void
  /** Takes the line away, for good. Happens by itself when the scope closes. */
  readonly stop: Effect.Effect<void>
}

const silent: Progress = { say: () => {}, stop: Effect.void }

/** Shows `text`, then what the events tell. */
export const start = (
  device: Device,
  text: string,
  events: Stream.Stream<LlmEvent>
): Effect.Effect<Progress, never, Scope.Scope> =>
  Effect.gen(function*() {
    if (!device.canAnimate) return silent
    const clock = yield* Clock.Clock
    const startedAt = monotonicMillis(clock)
    let current = text
    let frame = 0

    const draw = Effect.suspend(() => {
      const seconds = ((monotonicMillis(clock) - startedAt) / 1000).toFixed(1)
      const head = `${FRAMES[frame++ % FRAMES.length]} ${seconds} s  `
      return device.write(CLEAR + device.paint("quiet", (head + printable(current)).slice(0, device.columns - 1)))
    })
    const follow = Stream.runForEach(events, (event) =>
      Effect.sync(() => {
        current = describe(event) ?? current
      }))
    const fiber = yield* Effect.forkScoped(
      Effect.all([Effect.forever(Effect.andThen(draw, Effect.sleep(EVERY))), follow], {
        concurrency: 2,
        discard: true
      }),
      { startImmediately: true }
    )
    let stopped = false
    const stop = Effect.suspend(() => {
      if (stopped) return Effect.void
      stopped = true
      return Effect.andThen(Fiber.interrupt(fiber), device.write(CLEAR))
    })
    yield* Effect.addFinalizer(() => stop)
    return {
      say: (text) => {
        current = text
      },
      stop
    }
  })

const describe = (event: LlmEvent): string | undefined => {
  switch (event._tag) {
    case "AttemptStarted":
      return `${event.target}${event.model === undefined ? "" : ` (${event.model})`}, attempt ${event.attempt}`
    case "RetryScheduled":
      return `${event.target}: ${failure(event.error)}; again in ${duration(event.delay)}`
    case "FailedOver":
      return `${event.from} failed; asking ${event.to}`
    case "AttemptCommitted":
      return `${event.target} answers`
    default:
      return undefined
  }
}
