// Each pattern works alone, on any Effect.
import { Effect } from "effect"
import { CircuitBreaker, RateLimiter, Retry, Timeout } from "effect-resilient-llm/resilience"

let calls = 0
const flaky = Effect.suspend(() => ++calls % 3 === 0 ? Effect.succeed(`answer of call ${calls}`) : Effect.fail("busy"))

const program = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.make({ key: "inventory", failureThreshold: 5, recoveryTimeout: "10 seconds" })
  const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 5 })

  // Innermost first: a retry is a request too, and the breaker must see every attempt.
  return yield* flaky.pipe(
    Timeout.attempt("2 seconds"),
    breaker.protect,
    limiter.take(1),
    Retry.retry({ maxRetries: 3, baseDelay: "10 millis" }),
    Timeout.deadline("10 seconds")
  )
})

console.log(await Effect.runPromise(program))
