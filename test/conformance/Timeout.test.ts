import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Queue, Stream } from "effect"
import { type LlmError, type LlmResponse } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, kinds, nothingHeld, now, setUp, success, timed, vector } from "../support.ts"
import {
  always,
  assertInterrupted,
  breaker,
  interrupt,
  millis,
  over,
  overloads,
  ping,
  rateLimited,
  recorded,
  setUpWith,
  start,
  succeeds,
  tags,
  timers,
  wait,
  word
} from "./support.ts"

const { hang, stream } = ScriptedProvider

const twice = { maxRetries: 1, baseDelay: 500, maxDelay: 8000 }

const after = (error: LlmError.LlmError): number | undefined => "after" in error ? millis(error.after) : undefined

describe.each(kinds)("%s", (kind) => {
  it.effect("T1 no answer, two attempts of 1000: calls [0, 1375], the end at 2375, kind attempt", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang)], { retry: twice, timeout: { ...timers, attempt: 1000 } })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const error = failure(exit)
      assert.strictEqual(at, 2375)
      assert.strictEqual(word(error), "AttemptTimeout attempt")
      assert.strictEqual(after(error), 1000)
      assert.deepStrictEqual(yield* r.calls(), [0, 1375])
      yield* nothingHeld(r)
    })))

  it.effect("T2 with a deadline of 1500 the second attempt gets 125 ms: the end at 1500, kind deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang)], { retry: twice, timeout: { ...timers, attempt: 1000, deadline: 1500 } })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const error = failure(exit)
      assert.strictEqual(at, 1500)
      assert.strictEqual(word(error), "DeadlineExceeded")
      assert.strictEqual(after(error), 1500)
      assert.deepStrictEqual(yield* r.calls(), [0, 1375])
      yield* nothingHeld(r)
    })))

  it.effect("T3 ten seconds of cleanup: the caller is free at 1000, the permit at 11 000", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...hang, cleanup: "10 seconds" }, succeeds]], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        bulkhead: { maxConcurrent: 1, queue: 100, maxWait: "30 seconds" }
      })
      const first = yield* start(ask(kind, r.client))
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(1000)
      assert.strictEqual(word(failure(over(first))), "AttemptTimeout attempt")
      assert.strictEqual(first.at(), 1000)
      yield* TestClock.adjust(9999)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* TestClock.adjust(1)
      success(over(second))
      assert.strictEqual(second.at(), 11_000)
      assert.deepStrictEqual(yield* r.calls(), [0, 11_000])
      yield* nothingHeld(r)
    })))

  it.effect("T3 also when the cleanup is inside the provider's effect, not in its scope", () =>
    vector(Effect.gen(function*() {
      const scripted = yield* ScriptedProvider.make([ScriptedProvider.always(succeeds)])
      let first = true
      const slowly = <A>(then: Effect.Effect<A>) => {
        if (!first) return then
        first = false
        return Effect.andThen(Effect.onInterrupt(Effect.never, () => Effect.sleep("10 seconds")), then)
      }
      const provider: ScriptedProvider.ScriptedProvider = {
        ...scripted,
        generate: (request) => Effect.andThen(slowly(Effect.void), scripted.generate(request)),
        stream: (request) => Stream.unwrap(Effect.as(slowly(Effect.void), scripted.stream(request)))
      }
      const r = yield* setUpWith([provider], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        bulkhead: { maxConcurrent: 1, queue: 100, maxWait: "30 seconds" }
      })
      const caller = yield* start(ask(kind, r.client))
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(word(failure(over(caller))), "AttemptTimeout attempt")
      assert.strictEqual(caller.at(), 1000)
      assert.strictEqual(second.at(), 11_000)
      yield* nothingHeld(r)
    })))

  it.effect("T4 the caller's own timeout at 500 is an interruption: the streak unchanged, no permit held", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloads], always: hang }], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        circuitBreaker: breaker,
        bulkhead: { maxConcurrent: 1 }
      })
      yield* Effect.exit(ask(kind, r.client))
      const { at, exit } = yield* timed(Effect.timeout(ask(kind, r.client), 500), 500)
      assert.strictEqual(at, 500)
      assert.isTrue(Cause.isTimeoutError(failure(exit)))
      const { targets: [status] } = yield* r.client.status
      assert.deepInclude(status?.circuit, { streak: 1, calls: 1, failures: 1 })
      yield* nothingHeld(r)
    })))

  it.effect.each([[999, 999, "Hello."], [1001, 1000, "AttemptTimeout attempt"]] as const)(
    "T9 an answer at %d under a limit of 1000",
    ([delay, at, expected]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always({ ...succeeds, delay })], {
          retry: false,
          timeout: { ...timers, attempt: 1000 }
        })
        const ended = yield* timed(ask(kind, r.client))
        assert.strictEqual(ended.at, at)
        assert.strictEqual(Exit.isSuccess(ended.exit) ? ended.exit.value.text : word(failure(ended.exit)), expected)
        yield* nothingHeld(r)
      }))
  )

  it.effect("T10 a transport that cannot be interrupted answers at 1500: the failure is at 1000 and counts once", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...succeeds, delay: 1500, uninterruptible: true }]], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        circuitBreaker: breaker,
        bulkhead: { maxConcurrent: 1 }
      })
      const events = yield* recorded(r)
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(1000)
      assert.strictEqual(word(failure(over(call))), "AttemptTimeout attempt")
      const { targets: before } = yield* r.client.status
      assert.strictEqual(before[0]?.bulkhead?.inUse, 1)
      yield* TestClock.adjust("10 seconds")
      const { targets: [status] } = yield* r.client.status
      assert.deepInclude(status?.circuit, { state: "closed", streak: 1, calls: 1, failures: 1 })
      assert.deepStrictEqual(tags(events), ["CallStarted", "AttemptStarted", "AttemptFailed", "CallEnded"])
      yield* nothingHeld(r)
    })))

  it.effect("T11 a hint of 30 s and a deadline of 10 s: RateLimit at 0, not the deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(rateLimited("30 seconds"))], { timeout: { ...timers, deadline: "10 seconds" } })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(word(failure(exit)), "RateLimit")
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("T12 a limiter's wait of 1500 and a deadline of 1000: RateLimited at 0, no token consumed", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], {
        timeout: { ...timers, deadline: 1000 },
        rateLimit: { capacity: 1, refillPerSecond: 1 / 1.5, maxWait: "30 seconds" }
      })
      yield* Effect.exit(ask(kind, r.client))
      for (let i = 0; i < 3; i++) {
        const { at, exit } = yield* timed(ask(kind, r.client), 0)
        const error = failure(exit)
        assert.strictEqual(at, 0)
        assert.strictEqual(error._tag, "RateLimited")
        assert.strictEqual(millis((error as LlmError.RateLimited).retryAfter), 1500)
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* TestClock.adjust(1500)
      success((yield* timed(ask(kind, r.client), 0)).exit)
      yield* nothingHeld(r)
    })))

  it.effect.each([false, { attempt: false, firstToken: false, idle: false, deadline: false }] as const)(
    "T13 without timers a transport may take an hour (%j)",
    (timeout) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always({ ...succeeds, delay: "1 hour" })], { timeout })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(success(exit).text, "Hello.")
        assert.strictEqual(at, 3_600_000)
        yield* nothingHeld(r)
      }))
  )

  it.effect("T14 a deadline that is spent already: no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds), always(succeeds)], {
        timeout: { ...timers, deadline: 1000 },
        bulkhead: {},
        circuitBreaker: breaker
      })
      const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline: 0 }))
      assert.strictEqual(at, 0)
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[], []])
      yield* nothingHeld(r)
    })))

  it.effect("a request's own deadline replaces the client's, shorter or longer", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang)], { retry: false, timeout: { ...timers, deadline: 1000 } })
      for (const deadline of [500, 2000]) {
        const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline }), 5000)
        assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
        assert.strictEqual(at, deadline)
      }
      yield* nothingHeld(r)
    })))

  it.effect("a caller's own interruption waits for the provider's cleanup", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always({ ...hang, cleanup: "10 seconds" })], { timeout: timers })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(100)
      yield* interrupt(call)
      assert.isUndefined(call.exit())
      yield* TestClock.adjust("10 seconds")
      assertInterrupted(call, 10_100)
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("Effect.timeout: a slow finalizer does not stretch the limit, nor does it delay the retry", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[{ ...hang, cleanup: "1 hour" }, succeeds]], { timeout: { ...timers, attempt: 1000 } })
        const { at, exit } = yield* timed(ask(kind, r.client), "2 hours")
        assert.strictEqual(success(exit).text, "Hello.")
        assert.strictEqual(at, 1375)
        yield* nothingHeld(r)
      })))

    it.effect("anthropic-sdk#867 #959 #998 #749, AutoGPT PR#14206 #14293: the limit covers the body too", () =>
      vector(Effect.gen(function*() {
        // Headers at once, then nothing useful for an hour.
        const r = yield* setUp([always(stream(ping, wait(3_600_000), "late"))], {
          retry: false,
          timeout: { ...timers, attempt: 1000 }
        })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
        assert.strictEqual(at, 1000)
        yield* nothingHeld(r)
      })))

    it.effect("ai-retry#50, litellm#34819: our limit fails over, the deadline does not", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(hang), always(hang)], {
          retry: false,
          timeout: { ...timers, attempt: 1000, deadline: 2500 }
        })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(word(failure(exit)), "AllProvidersFailed AttemptTimeout attempt AttemptTimeout attempt")
        assert.strictEqual(at, 2000)
        assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], [1000]])
        const late = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline: 1500 }))
        assert.strictEqual(word(failure(late.exit)), "DeadlineExceeded")
        assert.strictEqual(late.at, 1500)
        yield* nothingHeld(r)
      })))
  })
})

/** Where each part of a stream reached its consumer, and how the stream ended. */
const watch = <E>(parts: Stream.Stream<LlmResponse.StreamPart, E>, consumer: Effect.Effect<unknown> = Effect.void) =>
  Effect.gen(function*() {
    const seen: Array<number> = []
    const ended = yield* timed(
      Stream.runForEach(parts, (part) =>
        part.type !== "text-delta" ? Effect.void : Effect.andThen(
          Effect.map(now, (at) => void seen.push(at)),
          consumer
        ))
    )
    return { ...ended, seen }
  })

describe("stream", () => {
  it.effect("T5 content at 1500, 2400, 3300, then silence: three parts, kind idle at 4300, one call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([
        always(stream(wait(1500), "a", wait(900), "b", wait(900), "c", ScriptedProvider.stall)),
        always(succeeds)
      ], {
        timeout: { ...timers, firstToken: 2000, idle: 1000 }
      })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      const error = failure(exit)
      assert.strictEqual(word(error), "StreamInterrupted idle")
      assert.strictEqual((error as LlmError.StreamInterrupted).partialParts, 3)
      assert.strictEqual(at, 4300)
      assert.deepStrictEqual(seen, [1500, 2400, 3300])
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], []])
      yield* nothingHeld(r)
    })))

  const pings = Array.from({ length: 100 }, () => [wait(500), ping]).flat()

  it.effect("T6 only pings: kind firstToken at 2000", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(stream(...pings))], {
        retry: false,
        timeout: { ...timers, firstToken: 2000, idle: 1000 }
      })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout firstToken")
      assert.strictEqual(at, 2000)
      assert.deepStrictEqual(seen, [])
      yield* nothingHeld(r)
    })))

  it.effect("T6 it is retryable", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream(...pings), succeeds]], { timeout: { ...timers, firstToken: 2000, idle: 1000 } })
      const { at, exit } = yield* watch(r.client.stream("Hi"))
      success(exit)
      assert.strictEqual(at, 2375)
      assert.deepStrictEqual(yield* r.calls(), [0, 2375])
      yield* nothingHeld(r)
    })))

  it.effect("T7 content at 1500, pings at 2000, 2500, 3000: idle at 2500, not 4000 (ARCHITECTURE §5: content only)", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([
        always(stream(wait(1500), "a", wait(500), ping, wait(500), ping, wait(500), ping, ScriptedProvider.stall))
      ], {
        timeout: { ...timers, firstToken: 2000, idle: 1000 }
      })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      assert.strictEqual(word(failure(exit)), "StreamInterrupted idle")
      assert.strictEqual(at, 2500)
      assert.deepStrictEqual(seen, [1500])
      yield* nothingHeld(r)
    })))

  /** Sends on its own, whether somebody pulls or not: a text at each of the given moments, then the end. */
  const sending = (...moments: ReadonlyArray<number>) =>
    Effect.gen(function*() {
      const scripted = yield* ScriptedProvider.make()
      const finish = { type: "finish", reason: "stop", usage: { inputTokens: {}, outputTokens: {} } } as const
      const sent = Effect.gen(function*() {
        const queue = yield* Queue.unbounded<LlmResponse.StreamPart, Cause.Done>()
        yield* Effect.forkScoped(Effect.gen(function*() {
          for (const [i, moment] of moments.entries()) {
            yield* Effect.sleep(moment - (moments[i - 1] ?? 0))
            yield* Queue.offer(queue, { type: "text-delta", id: "0", delta: "x" })
          }
          yield* Queue.offer(queue, finish)
          yield* Queue.end(queue)
        }))
        return Stream.fromQueue(queue)
      })
      return { ...scripted, stream: () => Stream.unwrap(sent) }
    })

  it.effect("T8 a slow consumer: chunks sent at 0 and 100, pulled at 0 and 5000, both delivered", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUpWith([yield* sending(0, 100)], { timeout: { ...timers, firstToken: 1000, idle: 1000 } })
      const { exit, seen } = yield* watch(r.client.stream("Hi"), Effect.sleep(5000))
      success(exit)
      assert.deepStrictEqual(seen, [0, 5000])
      yield* nothingHeld(r)
    })))

  it.effect("T8 the silence before a slow consumer's pull does not count, that of its pulls adds up", () =>
    vector(Effect.gen(function*() {
      const elements = ["a", wait(600), ping, wait(300), "b", wait(600), ping, wait(600), "c"] as const
      const r = yield* setUp([always(stream(...elements))], { timeout: { ...timers, idle: 1000 } })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"), Effect.sleep(5000))
      assert.strictEqual(word(failure(exit)), "StreamInterrupted idle")
      assert.deepStrictEqual(seen, [0, 5900])
      assert.strictEqual(at, 11_900)
      yield* nothingHeld(r)
    })))

  it.effect("the deadline bounds a stream after its commit", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(stream("a", wait(900), "b", wait(900), "c"))], {
        timeout: { ...timers, deadline: 1000 }
      })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.strictEqual(at, 1000)
      assert.deepStrictEqual(seen, [0, 900])
      yield* nothingHeld(r)
    })))

  it.effect("T3 after the commit too: the consumer is free when the idle timer fires, cleanup goes on", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always({ ...stream("a", ScriptedProvider.stall), cleanup: "10 seconds" })], {
        timeout: { ...timers, idle: 1000 },
        bulkhead: { maxConcurrent: 1 }
      })
      const call = yield* start(ask("stream", r.client))
      yield* TestClock.adjust(1000)
      assert.strictEqual(word(failure(over(call))), "StreamInterrupted idle")
      assert.strictEqual(call.at(), 1000)
      assert.strictEqual((yield* r.client.status).targets[0]?.bulkhead?.inUse, 1)
      yield* TestClock.adjust("10 seconds")
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("opencode PR#29348: after the commit the attempt limit no longer counts", () =>
      vector(Effect.gen(function*() {
        const long = Array.from({ length: 20 }, () => [wait(900), "x"]).flat()
        const r = yield* setUp([always(stream(...long))], {
          timeout: { ...timers, attempt: 1000, firstToken: 1000, idle: 1000 }
        })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        success(exit)
        assert.strictEqual(at, 18_000)
        yield* nothingHeld(r)
      })))

    it.effect("jp PR#708, openfox PR#226: `idle: false` lets a model think for an hour", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(stream("a", wait(3_000_000), "b"))], {
          timeout: { ...timers, idle: false, deadline: false }
        })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        success(exit)
        assert.strictEqual(at, 3_000_000)
      })))

    it.effect("pipecat#5804 #5842: one that dribbles content without end is ended by the deadline", () =>
      vector(Effect.gen(function*() {
        const dribble = Array.from({ length: 100 }, () => [wait(900), "."]).flat()
        const r = yield* setUp([always(stream(...dribble))], { timeout: { ...timers, idle: 1000, deadline: 10_000 } })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
        assert.strictEqual(at, 10_000)
        yield* nothingHeld(r)
      })))

    it.effect("goose PR#8134: a stream that dribbles without content is not alive", () =>
      vector(Effect.gen(function*() {
        const dribble = Array.from(
          { length: 100 },
          () => [wait(10), { type: "text-delta", id: "0", delta: "" } as const]
        ).flat()
        const r = yield* setUp([always(stream("a", ...dribble))], { timeout: { ...timers, idle: 500 } })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        assert.strictEqual(word(failure(exit)), "StreamInterrupted idle")
        assert.strictEqual(at, 500)
        yield* nothingHeld(r)
      })))
  })
})
