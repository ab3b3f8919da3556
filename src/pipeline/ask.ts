// What happens inside an attempt, while everything is held: the provider is asked, under its timer.
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { effectOf } from "../internal/effect.ts"
import { AttemptTimeout, type DeadlineExceeded, type ProviderError, withoutStack } from "../LlmError.ts"
import { unusable } from "../LlmResponse.ts"
import * as Timeout from "../resilience/Timeout.ts"
import type { Attempt } from "./attempt.ts"
import { type Served, type Try, whole } from "./stage.ts"
import { openStream } from "./stream.ts"

/** Bounds an attempt by its own limit and by the deadline. The caller is released at once; the cleanup goes on. */
export const timed =
  (policy: Timeout.Policy | undefined) => <E>(self: Try<E>): Try<E | AttemptTimeout | DeadlineExceeded> => {
    if (policy === undefined) return (attempt, now) => attempt.restore(self(attempt, now))
    return (attempt, now) => {
      const { deadline } = attempt.call
      const kind = attempt.operation === "stream" && policy.firstToken <= policy.attempt ? "firstToken" : "attempt"
      const due = now + policy[kind]
      return Timeout.boundedIn(
        attempt.restore,
        self(attempt, now),
        (now) => Math.min(due - now, deadline.left(now)),
        (now, work) => {
          const own = due <= now
          const error = own
            ? withoutStack(() => new AttemptTimeout({ kind, after: Duration.millis(policy[kind]) }))
            : deadline.error(now)
          attempt.failed(error, own ? undefined : now - attempt.startedAt)
          attempt.leave(work)
          return error
        }
      )
    }
  }

/** Asks the provider: for a whole answer, or for a stream up to its first content part. */
export const ask = (timers: Timeout.Policy | undefined): Try<ProviderError> => (attempt) => {
  const { number, scope } = attempt
  const { trace } = attempt.call.root
  const asked = scope === undefined ? generate(attempt) : openStream(attempt, scope, timers)
  return trace === undefined ? asked : trace.within(number, asked)
}

const generate = (attempt: Attempt): Effect.Effect<Served, ProviderError> =>
  Effect.flatMap(effectOf(attempt.provider.generate(attempt.request), "provider", attempt.provider.id), (parts) => {
    const answer = attempt.answer(parts)
    const problem = unusable(parts)
    return problem === undefined
      ? Effect.succeed(whole(answer, "provider", 0))
      : Effect.fail(attempt.error(problem))
  })
