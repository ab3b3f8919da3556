// Effect's own blocks: plan, retry, limiter, circuit breaker, timeout. `everything` adds what they lack of ours and Effect
// has parts for: a bulkhead, a deadline over all, and old answers for failures. Nothing here has idempotency.
import { Cache, Context, Effect, ExecutionPlan, Layer, Option, Schedule, Semaphore } from "effect"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import * as RateLimiter from "effect/persistence/RateLimiter"

export const effectBlocks = (answer: string, prompt: string, everything = false) =>
  Effect.gen(function*() {
    const Model = Context.Service<"bench/Model", { readonly ask: (prompt: string) => Effect.Effect<string, Error> }>(
      "bench/Model"
    )
    const live = Context.make(Model, { ask: () => Effect.succeed(answer) })
    const plan = ExecutionPlan.make({ provide: live }, { provide: live })
    const breaker = yield* CircuitBreaker.make({
      tripPolicy: CircuitBreaker.consecutive(5),
      openDuration: "30 seconds"
    })
    const withLimiter = yield* RateLimiter.makeWithRateLimiter
    const room = yield* Semaphore.make(100)
    const answers = yield* Cache.make({
      lookup: (asked: string): Effect.Effect<string, string> => Effect.fail(`${asked} is unknown`),
      capacity: 1000,
      timeToLive: "1 day"
    })
    const asked = Model.use((model) => model.ask(prompt)).pipe(
      Effect.timeout("60 seconds"),
      breaker.execute({ key: "primary" }),
      withLimiter({ key: "all", limit: 1e9, window: "1 second", algorithm: "token-bucket", onExceeded: "delay" })
    )
    const answered = (everything ? room.withPermits(1)(asked) : asked).pipe(
      Effect.retry({ schedule: Schedule.exponential("1 second"), times: 3 }),
      Effect.withExecutionPlan(plan)
    )
    if (!everything) return answered
    return answered.pipe(
      Effect.timeout("5 minutes"),
      Effect.tap((text) => Cache.set(answers, prompt, text)),
      Effect.catch((error) =>
        Effect.flatMap(
          Cache.getOption(answers, prompt),
          Option.match({ onNone: () => Effect.fail(error), onSome: Effect.succeed })
        )
      )
    )
  }).pipe(
    Effect.provide([
      CircuitBreaker.layerStoreMemory(),
      RateLimiter.layer.pipe(Layer.provide(RateLimiter.layerStoreMemory))
    ])
  )
