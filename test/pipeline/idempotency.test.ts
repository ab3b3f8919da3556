// One key, one call: what callers that share a key share, and what stays each one's own.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import { LlmError, type LlmEvent, LlmGuard } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { ResponseCache } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { noFallback } from "../../src/pipeline/cache.ts"
import { idempotent } from "../../src/pipeline/idempotency.ts"
import { Recorder } from "../observability/spans.ts"
import { ask, chance, failure, fork, kinds, nothingHeld, recordsIn, setUp, success, timed, vector } from "../support.ts"

const { answer, fail, overloaded } = ScriptedProvider
const keyed = { prompt: "Hi", idempotencyKey: "k" } as const
const memory = Store.memory<string>({ maxEntries: 10 })

/** What a ledger says of keys. */
const saidOf = (ledger: LlmEvent.Ledger) =>
  ledger.flatMap((event) => event._tag === "Idempotency" ? [[event.result, event.key] as const] : [])

/** Both at once, and how each ended within a minute. */
const bothOf = <A, E, R>(one: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fibers = [yield* fork(Effect.exit(one)), yield* fork(Effect.exit(one))] as const
    yield* TestClock.adjust("1 minute")
    return [yield* Fiber.join(fibers[0]), yield* Fiber.join(fibers[1])] as const
  })

describe("callers that share a key", () => {
  it.effect("a stream's follower does not inherit its leader's deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...answer("good"), delay: 1000 }, answer("another")]], {
        idempotency: {},
        timeout: { attempt: 60_000, firstToken: 60_000 }
      })
      const one = (deadline: number) => ask("stream", r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const a = yield* fork(Effect.flip(one(300)))
      const b = yield* fork(one(5000))
      yield* TestClock.adjust(1000)
      assert.strictEqual((yield* Fiber.join(a))._tag, "DeadlineExceeded")
      assert.strictEqual((yield* Fiber.join(b)).text, "good")
    })))

  it.effect("waiting for a permit, they wait as long as the longest of them", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [{ ...answer("first"), delay: 1000 }], always: answer("shared") }], {
        idempotency: {},
        timeout: { attempt: 60_000, firstToken: 60_000 },
        bulkhead: { maxConcurrent: 1 }
      })
      yield* fork(ask("complete", r.client, "occupies the permit"))
      const one = (deadline: number) => ask("complete", r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const a = yield* fork(Effect.flip(one(300)))
      const b = yield* fork(one(5000))
      yield* TestClock.adjust(300)
      assert.strictEqual((yield* Fiber.join(a))._tag, "DeadlineExceeded")
      yield* TestClock.adjust(700)
      assert.strictEqual((yield* Fiber.join(b)).text, "shared")
    })))

  it.effect("who joined has the attempts in its ledger too", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloaded, { ...answer("x"), delay: 10 }]], { idempotency: {} })
      const one = ask("complete", r.client, { prompt: "Hi", idempotencyKey: "k" })
      const both = yield* fork(Effect.all([one, one], { concurrency: 2 }))
      yield* TestClock.adjust(1000)
      const [, joined] = yield* Fiber.join(both)
      assert.deepStrictEqual(joined.ledger.map(({ _tag }) => _tag), [
        "CallStarted",
        "Idempotency",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptSucceeded",
        "CallEnded"
      ])
    })))
})

it.effect.each(kinds)(
  "a replay in the same millisecond has no attempts of its own: %s",
  (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("x")]], { idempotency: {} })
      const one = ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" })
      yield* one
      const again = yield* one
      assert.deepStrictEqual(again.ledger.map(({ _tag }) => _tag), ["CallStarted", "Idempotency", "CallEnded"])
    }))
)

describe.each(kinds)("%s: what is kept of a failure under a key", (kind) => {
  const classified = (status: number, body: string, headers: Record<string, string> = {}) =>
    ScriptedProvider.stream({ error: LlmError.ProviderError.fromHttp({ provider: "p", status, headers, body }) })
  const page = "<!doctype html><html><title>Request blocked</title></html>"
  const html = { "content-type": "text/html" }
  const refusal = JSON.stringify({ error: { type: "invalid_request_error", message: "No such field." } })

  it.effect.each(
    [
      ["a vendor's refusal of what was asked", classified(400, refusal, { "content-type": "application/json" }), 1],
      ["a page of what stands between, 400", classified(400, page, html), 2],
      ["a page of what stands between, 403", classified(403, page, html), 2],
      ["headers that are too large for a server on the way, 431", classified(431, ""), 2],
      ["a failure that passes, 503", classified(503, ""), 2]
    ] as const
  )("%s", ([, step, calls]) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: step }], { idempotency: {}, retry: false })
      const one = Effect.exit(ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" }))
      yield* one
      yield* one
      assert.strictEqual((yield* r.calls()).length, calls)
    })))

  it.effect("what was refused before it was sent is asked again", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("x") }], {
        idempotency: {},
        rateLimit: { limits: [{ dimension: "requests", limit: 1, per: "1 minute" }], maxWait: 0 }
      })
      yield* ask(kind, r.client, "takes the token")
      const one = ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" })
      assert.strictEqual((yield* Effect.flip(one))._tag, "RateLimited")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* one).text, "x")
    })))
})

describe.each(kinds)("%s: callers of one key in the limiter's line", (kind) => {
  it.effect("the one that may wait longer keeps the place when the first one has to go", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("x") }], {
        idempotency: {},
        timeout: {},
        rateLimit: { limits: [{ dimension: "requests", limit: 1, per: "1 second" }], maxWait: "1 minute" }
      })
      yield* ask(kind, r.client, "takes the token")
      const keyed = (deadline: number) => ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const ended: Array<string> = []
      const named = <A, E, R>(name: string, self: Effect.Effect<A, E, R>) =>
        fork(Effect.onExit(self, () => Effect.sync(() => ended.push(name))))
      yield* named("hurried", keyed(500))
      yield* named("patient", keyed(30_000))
      yield* TestClock.adjust(100)
      yield* named("later", ask(kind, r.client, "somebody else"))
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(ended, ["hurried", "patient", "later"])
    })))
})

describe.each(kinds)("%s: the key a call goes by", (kind) => {
  it.effect("without one, and without sharing, each call has one of its own, and says so", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("x", { delay: 10 }) }], { idempotency: {} })
      const exits = yield* bothOf(ask(kind, r.client))
      const digits = (2 ** 29).toString(36)
      const keys = [1, 2].map((id) => `llm-${digits}-${digits}-${id}`)
      assert.deepStrictEqual(
        exits.flatMap((exit) => saidOf(success(exit).ledger)),
        keys.map((key) => ["generated", key] as const)
      )
      const sent = (yield* r.providers[0]!.requests).map(({ request }) => request.idempotencyKey)
      assert.deepStrictEqual(sent, keys)
      // What is drawn is drawn once per client.
      yield* timed(chance(0.25)(ask(kind, r.client)))
      assert.strictEqual((yield* r.providers[0]!.requests)[2]!.request.idempotencyKey, `llm-${digits}-${digits}-3`)
    })))

  it.effect("who leads says the key where it was made here; who joins or replays has sent none", () =>
    vector(Effect.gen(function*() {
      for (
        const [request, key] of [[{ prompt: "Hi" }, (made: string | undefined) => made], [
          keyed,
          () => undefined
        ]] as const
      ) {
        const r = yield* setUp([{ always: answer("x", { delay: 10 }) }], { idempotency: { derive: "replay" } })
        const [led, joined] = yield* bothOf(ask(kind, r.client, request))
        const sent = (yield* r.providers[0]!.requests)[0]!.request.idempotencyKey
        assert.isString(sent)
        assert.deepStrictEqual(saidOf(success(led).ledger), [["led", key(sent)]])
        assert.deepStrictEqual(saidOf(success(joined).ledger), [["joined", undefined]])
        assert.deepStrictEqual(saidOf((yield* ask(kind, r.client, request)).ledger), [["replayed", undefined]])
      }
    })))
})

describe.each(kinds)("%s: failures that are shared", (kind) => {
  it.effect("every ledger has the attempts, once", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[fail({ _tag: "Overloaded" }, { delay: 100 })]], { idempotency: {}, retry: false })
      for (const exit of yield* bothOf(ask(kind, r.client, keyed))) {
        const attempts = failure(exit).ledger.map(({ _tag }) => _tag).filter((tag) => tag.startsWith("Attempt"))
        assert.deepStrictEqual(attempts, ["AttemptStarted", "AttemptFailed"])
      }
    })))

  it.effect.each(["a text", null, undefined, 7])(
    "a guard's %s is everybody's failure",
    (error) =>
      vector(Effect.gen(function*() {
        const guard = LlmGuard.make("door", () => Effect.andThen(Effect.sleep(10), Effect.fail(error)))
        const r = yield* setUp([[]], { idempotency: {}, ...({ guards: [guard] } as object) })
        assert.deepStrictEqual<unknown>(yield* bothOf(ask(kind, r.client, keyed)), [Exit.fail(error), Exit.fail(error)])
      }))
  )

  it.effect("a refusal is kept where the only target gave it, and not where others might do better next time", () =>
    vector(Effect.gen(function*() {
      const refuses = { always: fail({ _tag: "InvalidRequest" }) }
      const failsOver = yield* setUp([{ always: overloaded }, refuses], { idempotency: {}, retry: false })
      const skips = yield* setUp([{ always: overloaded }, refuses], {
        idempotency: {},
        retry: false,
        circuitBreaker: { failureThreshold: 1 }
      })
      yield* Effect.exit(ask(kind, skips.client, "away from now on"))
      for (const [r, calls] of [[failsOver, 2], [skips, 3]] as const) {
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(ask(kind, r.client, keyed))
          assert.strictEqual(error._tag, "ProviderError")
          if (r === skips) assert.include(error.ledger.map(({ _tag }) => _tag), "TargetSkipped")
        }
        assert.lengthOf(yield* r.calls(1), calls)
      }
    })))
})

describe.each(kinds)("%s: spans of calls that share work", (kind) => {
  it.effect("who joins links to whom it waited for, where both have a span", () =>
    vector(Effect.gen(function*() {
      const linked: Array<ReadonlyArray<number>> = []
      for (const [isLeader, isFollower] of [[true, true], [true, false], [false, true], [false, false]] as const) {
        const r = yield* setUp([[answer("x", { delay: 100 })]], { idempotency: {} })
        const recorder = new Recorder()
        const call = (isTraced: boolean) =>
          isTraced ? recorder.on(ask(kind, r.client, keyed)) : ask(kind, r.client, keyed)
        const calls = [yield* fork(call(isLeader)), yield* fork(call(isFollower))]
        yield* TestClock.adjust(1000)
        for (const one of calls) assert.strictEqual((yield* Fiber.join(one)).text, "x")
        linked.push(recorder.named("llm.call").map(({ links }) => links.length))
      }
      assert.deepStrictEqual(linked, [[0, 1], [0], [0], []])
    })))
})

describe.each(kinds)("%s: over a store", (kind) => {
  it.effect("an answer that cannot be recorded is said to be, after the attempts, to all who wait for it", () =>
    vector(Effect.gen(function*() {
      const store = yield* memory
      const complete = () => Effect.delay(Effect.fail(new Store.StoreError({ operation: "complete" })), 50)
      const step = answer("x", { delay: 100 })
      const r = yield* recordsIn({ ...store, complete })(setUp([[step]], { idempotency: {} }))
      const [led, joined] = yield* bothOf(ask(kind, r.client, keyed))
      const attempt = ["AttemptStarted", "AttemptSucceeded"]
      for (const [exit, how] of [[led, "led"], [joined, "joined"]] as const) {
        const said = success(exit).ledger.map((event) => event._tag === "Idempotency" ? event.result : event._tag)
        // Streams are recorded by the one that began them.
        const unavailable = kind === "complete" || how === "led" ? ["unavailable"] : []
        assert.deepStrictEqual(said, ["CallStarted", how, ...attempt, ...unavailable, "CallEnded"])
      }
    })))

  it.effect.each([["a given key", "k"], ["a question that is derived", undefined]] as const)(
    "stores that hang hold up a call by 150 ms all together, and no longer than its own deadline: %s",
    ([, idempotencyKey]) =>
      vector(Effect.gen(function*() {
        for (const [deadline, ends, how] of [[500, 150, "provider"], [30, 30, "DeadlineExceeded"]] as const) {
          const hanging = { ...(yield* memory), acquire: () => Effect.never, get: () => Effect.never }
          const r = yield* setUp([{ always: answer("x") }], {
            timeout: {},
            idempotency: { derive: "replay" },
            cache: { readThrough: true }
          }).pipe(recordsIn(hanging), Effect.provideService(ResponseCache.ResponseCacheStore, hanging))
          const request = {
            prompt: "Hi",
            temperature: 0,
            cache: "no-stale" as const,
            deadline,
            ...(idempotencyKey === undefined ? {} : { idempotencyKey })
          }
          const { at, exit } = yield* timed(ask(kind, r.client, request), 1000)
          assert.deepStrictEqual([at, Exit.isSuccess(exit) ? exit.value.source : failure(exit)._tag], [ends, how])
        }
      }))
  )

  it.effect("callers that come while it is being asked share one call, also where the last one under that key broke", () =>
    vector(Effect.gen(function*() {
      const store = yield* memory
      const slow: Store.LeaseStore<string> = {
        ...store,
        acquire: (key, lease) => Effect.delay(store.acquire(key, lease), 50)
      }
      const r = yield* recordsIn(slow)(
        setUp([[overloaded, answer("x", { delay: 10 })]], { idempotency: {}, retry: false })
      )
      assert.isTrue(Exit.isFailure((yield* timed(ask(kind, r.client, keyed))).exit))
      const texts = (yield* bothOf(ask(kind, r.client, keyed))).map((exit) => success(exit).text)
      assert.deepStrictEqual(texts, ["x", "x"])
      assert.lengthOf(yield* r.calls(), 2)
    })))

  it.effect("its health is watched", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const store of [undefined, yield* memory]) {
        const watched: Array<unknown> = []
        yield* idempotent(
          { derive: false, ttl: 1000, maxEntries: 1, maxBytes: 1000 } as never,
          (one) => watched.push(one),
          noFallback,
          () => Effect.never
        ).pipe(
          store === undefined ? (self) => self : recordsIn(store)
        )
        assert.lengthOf(watched, store === undefined ? 0 : 1)
      }
    })))
})

describe.each(kinds)("%s: what is kept under a key", (kind) => {
  it.effect("nothing that stood in for a failure, and each of its callers is told that it is stale", () =>
    vector(Effect.gen(function*() {
      const fails = fail({ _tag: "Overloaded" }, { delay: 100 })
      const r = yield* setUp([[answer("old"), fails, answer("new")]], { idempotency: {}, cache: {}, retry: false })
      yield* ask(kind, r.client, { prompt: "Hi" })
      for (const exit of yield* bothOf(ask(kind, r.client, keyed))) {
        const { source, text } = success(exit)
        assert.deepStrictEqual([source, text], ["stale", "old"])
      }
      const { source, text } = yield* ask(kind, r.client, keyed)
      assert.deepStrictEqual([source, text], ["provider", "new"])
    })))

  it.effect("no more bytes than allowed, with what the ledger takes", () =>
    vector(Effect.gen(function*() {
      const sources = Effect.fnUntraced(function*(failures: number) {
        const script = Array.from({ length: failures }, () => overloaded)
        const r = yield* setUp([{ script, always: answer("x") }], { idempotency: { maxBytes: 1500 } })
        yield* timed(ask(kind, r.client, keyed))
        return (yield* ask(kind, r.client, keyed)).source
      })
      assert.deepStrictEqual([yield* sources(0), yield* sources(2)], ["replay", "provider"])
    })))
})

it.effect("work that was given up cleans up while its key is another's: who comes then joins that one", () =>
  vector(Effect.gen(function*() {
    const slow = { ...answer("x", { delay: 1000 }) }
    const r = yield* setUp([[{ ...slow, cleanup: 300 }, slow]], { idempotency: {} })
    const one = ask("stream", r.client, keyed)
    const gone = yield* fork(one)
    yield* TestClock.adjust(500)
    yield* fork(Fiber.interrupt(gone))
    yield* TestClock.adjust(100)
    const second = yield* fork(one)
    yield* TestClock.adjust(400)
    const third = yield* fork(one)
    yield* TestClock.adjust("1 minute")
    const answers = [yield* Fiber.join(second), yield* Fiber.join(third)]
    assert.deepStrictEqual(answers.map(({ ledger, source }) => [source, saidOf(ledger)]), [
      ["provider", [["led", undefined]]],
      ["replay", [["joined", undefined]]]
    ])
    assert.deepStrictEqual(yield* r.calls(), [0, 600])
    yield* nothingHeld(r)
  })))

it.effect.each(kinds)(
  "a call's own deadline ends it as it does without a key: %s",
  (kind) =>
    vector(Effect.gen(function*() {
      const end = Effect.fnUntraced(function*(request: typeof keyed | { readonly prompt: "Hi" }) {
        const r = yield* setUp([[overloaded, ScriptedProvider.hang]], { idempotency: {}, timeout: {} })
        const { at, exit } = yield* timed(ask(kind, r.client, { ...request, deadline: 3000 }))
        const { ledger, ...error } = failure(exit)
        return [at, error, ledger.filter(({ _tag }) => _tag !== "Idempotency")] as const
      })
      const plain = yield* end({ prompt: "Hi" })
      assert.strictEqual(plain[0], 3000)
      assert.include(plain[2].map(({ _tag }) => _tag), "RetryScheduled")
      assert.deepStrictEqual(yield* end(keyed), plain)
    }))
)

it.effect("a stream's refusal that cannot be recorded is said to be, and no other", () =>
  vector(Effect.gen(function*() {
    const store = yield* memory
    const fails = () => Effect.fail(new Store.StoreError({ operation: "complete" }))
    for (const [complete, results] of [[store.complete, ["led"]], [fails, ["led", "unavailable"]]] as const) {
      const r = yield* recordsIn({ ...store, complete })(
        setUp([[fail({ _tag: "InvalidRequest" })]], { idempotency: {} })
      )
      const { ledger } = yield* Effect.flip(ask("stream", r.client, { prompt: "Hi", idempotencyKey: results.join() }))
      assert.deepStrictEqual(saidOf(ledger).map(([result]) => result), [...results])
    }
  })))
