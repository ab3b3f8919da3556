// Effect's own blocks: plan, retry, limiter, circuit breaker, timeout; it has no idempotency, and no stale answers.
import { Context, Effect, ExecutionPlan, Layer, Schedule } from "effect"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import * as RateLimiter from "effect/persistence/RateLimiter"

export const effectBlocks = (answer: string, prompt: string) =>
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
    return Model.use((model) => model.ask(prompt)).pipe(
      Effect.timeout("60 seconds"),
      breaker.execute({ key: "primary" }),
      withLimiter({ key: "all", limit: 1e9, window: "1 second", algorithm: "token-bucket", onExceeded: "delay" }),
      Effect.retry({ schedule: Schedule.exponential("1 second"), times: 3 }),
      Effect.withExecutionPlan(plan)
    )
  }).pipe(
    Effect.provide([
      CircuitBreaker.layerStoreMemory(),
      RateLimiter.layer.pipe(Layer.provide(RateLimiter.layerStoreMemory))
    ])
  )
