// Streams with one key: read live by all who ask for them, each at its own place.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Scope, Stream } from "effect"
import type { LlmError, LlmResponse } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { Broadcast } from "../../src/pipeline/broadcast.ts"
import { ask, failure, fork, nothingHeld, now, recordsIn, type SetUp, setUp, vector } from "../support.ts"

const { cut, stream } = ScriptedProvider
const wait = (millis: number) => ({ wait: millis })
const request = { prompt: "Hi", idempotencyKey: "k" }
const live = [stream("a", wait(100), "b", wait(100), "c", wait(100), "d")]

/** Reads a stream with the key; says what came, when, and how it ended. */
const read = (r: SetUp, take = Infinity, deadline?: number) =>
  Effect.gen(function*() {
    const seen: Array<readonly [string, number]> = []
    const parts = r.client.stream(deadline === undefined ? request : { ...request, deadline })
    const note = (part: LlmResponse.StreamPart) =>
      part.type === "text-delta" ? Effect.map(now, (at) => void seen.push([part.delta, at])) : Effect.void
    const exit = yield* Effect.exit(Stream.runForEach(Stream.take(parts, take), note))
    return { seen, exit }
  })

const textOf = ({ seen }: { readonly seen: ReadonlyArray<readonly [string, number]> }) =>
  seen.map(([text]) => text).join("")

describe("a second reader", () => {
  it.effect("gets what came so far, and then the live parts", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {}, bulkhead: { maxConcurrent: 1 } })
      const first = yield* fork(read(r))
      yield* TestClock.adjust(150)
      const second = yield* fork(read(r))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual((yield* Fiber.join(first)).seen, [["a", 0], ["b", 100], ["c", 200], ["d", 300]])
      assert.deepStrictEqual((yield* Fiber.join(second)).seen, [["a", 150], ["b", 150], ["c", 200], ["d", 300]])
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("reads on when the first one leaves: no second call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {}, bulkhead: { maxConcurrent: 1 } })
      const first = yield* fork(read(r))
      yield* TestClock.adjust(50)
      const second = yield* fork(read(r))
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust(1000)
      assert.strictEqual(textOf(yield* Fiber.join(second)), "abcd")
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("the last one that leaves ends the stream", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {}, bulkhead: { maxConcurrent: 1 } })
      const both = [yield* fork(read(r)), yield* fork(read(r))]
      yield* TestClock.adjust(150)
      yield* Fiber.interrupt(both[0]!)
      assert.strictEqual(yield* r.providers[0]!.active, 1)
      yield* Fiber.interrupt(both[1]!)
      yield* nothingHeld(r)
    })))

  it.effect("has a deadline of its own", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {}, timeout: {} })
      const first = yield* fork(read(r))
      const second = yield* fork(read(r, Infinity, 150))
      yield* TestClock.adjust(1000)
      assert.strictEqual(textOf(yield* Fiber.join(first)), "abcd")
      const { exit, seen } = yield* Fiber.join(second)
      assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
      assert.strictEqual(textOf({ seen }), "ab")
    })))

  it.effect("a slow one does not hold up a fast one", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {} })
      const slow = yield* fork(Effect.scoped(Effect.gen(function*() {
        const { parts } = yield* r.client.open(request)
        return yield* Stream.runCollect(Stream.tap(parts, () => Effect.sleep(200)))
      })))
      const fast = yield* fork(read(r))
      yield* TestClock.adjust(300)
      assert.strictEqual(textOf(yield* Fiber.join(fast)), "abcd")
      yield* TestClock.adjust(5000)
      const text = (yield* Fiber.join(slow)).map((part) => part.type === "text-delta" ? part.delta : "").join("")
      assert.strictEqual(text, "abcd")
      yield* nothingHeld(r)
    })))

  it.effect("a break tells each the number of parts it received", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", wait(100), "b", wait(100), "c", wait(100), cut)]], { idempotency: {} })
      const first = yield* fork(read(r))
      const scope = yield* Scope.make()
      const { response } = yield* Scope.provide(r.client.open(request), scope)
      yield* TestClock.adjust(1000)
      const errors = [failure((yield* Fiber.join(first)).exit), failure(yield* Effect.exit(response))]
      for (const error of errors) {
        assert.strictEqual((error as LlmError.StreamInterrupted).partialParts, 3)
        assert.strictEqual(error.ledger.filter(({ _tag }) => _tag === "AttemptFailed").length, 1)
      }
      yield* Scope.close(scope, Exit.void)
      // What broke is nobody's answer.
      yield* r.providers[0]!.play(ScriptedProvider.answer("again"))
      assert.strictEqual(textOf(yield* read(r)), "again")
      yield* nothingHeld(r)
    })))

  it.effect("its response is a replay with the attempts in its ledger", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {} })
      const first = yield* fork(read(r))
      yield* TestClock.adjust(50)
      const second = yield* fork(Effect.scoped(Effect.flatMap(r.client.open(request), ({ response }) => response)))
      yield* TestClock.adjust(1000)
      yield* Fiber.join(first)
      const { ledger, source, text } = yield* Fiber.join(second)
      assert.deepStrictEqual([source, text], ["replay", "abcd"])
      assert.strictEqual(ledger.filter(({ _tag }) => _tag === "AttemptSucceeded").length, 1)
      assert.strictEqual(ledger.filter(({ _tag }) => _tag === "CallEnded").length, 1)
    })))

  it.effect("has the attempts in its ledger once, also when it has begun late, or when all has come before it asks", () =>
    vector(Effect.gen(function*() {
      // Its end comes alone.
      const r = yield* setUp([[stream("a", wait(100), "b", wait(100), "cd", wait(100))]], { idempotency: {} })
      const first = yield* fork(read(r))
      const [late, last] = [yield* r.client.open(request), yield* r.client.open(request)]
      yield* TestClock.adjust(150)
      const second = yield* fork(late.response)
      yield* TestClock.adjust(1000)
      assert.strictEqual(textOf(yield* Fiber.join(first)), "abcd")
      for (const { ledger, text } of [yield* Fiber.join(second), yield* last.response]) {
        const attempts = ledger.flatMap(({ _tag }) => _tag.startsWith("Attempt") ? [_tag] : [])
        assert.deepStrictEqual([text, attempts], ["abcd", ["AttemptStarted", "AttemptCommitted", "AttemptSucceeded"]])
      }
    })))

  it.effect("that gave up its wait for more has what came meanwhile when it asks again", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {} })
      const { parts } = yield* r.client.open(request)
      const texts: Array<string> = []
      const note = (part: LlmResponse.StreamPart) =>
        Effect.sync(() => part.type === "text-delta" && texts.push(part.delta))
      const reading = Stream.runForEach(parts, note)
      const impatient = yield* fork(Effect.exit(Effect.timeout(reading, 50)))
      const other = yield* fork(read(r))
      yield* TestClock.adjust(150)
      assert.strictEqual(failure(yield* Fiber.join(impatient))._tag, "TimeoutError")
      assert.deepStrictEqual(texts, ["a"])
      yield* fork(reading)
      yield* TestClock.adjust(1000)
      assert.strictEqual(textOf(yield* Fiber.join(other)), "abcd")
      assert.deepStrictEqual(texts, ["a", "b", "c", "d"])
    })))

  it.effect("may do with the parts of a whole answer what it likes: they are its own", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.answer("Hi.")]], { idempotency: {} })
      for (let i = 0; i < 2; i++) {
        for (const part of yield* Stream.runCollect((yield* r.client.open(request)).parts)) {
          if (part.type !== "text-delta") continue
          assert.strictEqual(part.delta, "Hi.")
          Object.assign(part, { delta: "changed" })
        }
      }
    })))

  it.effect("may do with live parts what it likes: no reader, no response and no replay is changed by it", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", wait(100), "b")]], { idempotency: {} })
      const evil = yield* r.client.open(request)
      const spoiled = yield* fork(Stream.runForEach(evil.parts, (part) =>
        Effect.sync(() => {
          if (part.type === "text-delta") Object.assign(part, { delta: "EVIL" })
        })))
      const along = yield* fork(read(r))
      yield* TestClock.adjust(50)
      const late = yield* fork(read(r))
      yield* TestClock.adjust(50)
      yield* Fiber.join(spoiled)
      const replayed = yield* read(r)
      for (const one of [yield* Fiber.join(along), yield* Fiber.join(late), replayed]) {
        assert.strictEqual(textOf(one), "ab")
      }
      assert.strictEqual((yield* evil.response).text, "ab")
      assert.strictEqual((yield* r.calls()).length, 1)
    })))

  it.effect("past the bound of what is kept, a stream that comes late is no whole answer", () =>
    vector(Effect.gen(function*() {
      const long = "x".repeat(9 * 1024 * 1024)
      const r = yield* setUp([[stream("a", long, wait(100), "c")]], { idempotency: {} })
      const first = yield* fork(read(r))
      yield* TestClock.adjust(50)
      const late = yield* fork(read(r))
      yield* TestClock.adjust(1000)
      assert.strictEqual(textOf(yield* Fiber.join(first)).length, long.length + 2)
      const { exit, seen } = yield* Fiber.join(late)
      assert.deepStrictEqual(seen, [])
      assert.deepInclude({ ...failure(exit) }, { _tag: "StreamInterrupted", kind: "truncated", partialParts: 0 })
      yield* nothingHeld(r)
    })))

  it.effect("past the bound of what is kept it waits for the end", () =>
    vector(Effect.gen(function*() {
      const long = "x".repeat(9 * 1024 * 1024)
      const r = yield* setUp([[stream("a", long, wait(100), "c")]], { idempotency: {} })
      const first = yield* fork(read(r))
      yield* TestClock.adjust(50)
      const second = yield* fork(Effect.scoped(Effect.flatMap(r.client.open(request), ({ response }) => response)))
      yield* TestClock.adjust(1000)
      assert.strictEqual(textOf(yield* Fiber.join(first)).length, long.length + 2)
      const { cut, finishReason, ledger, text } = yield* Fiber.join(second)
      assert.deepStrictEqual([cut, finishReason, text], [true, "stop", "a"])
      assert.strictEqual(ledger.filter(({ _tag }) => _tag === "AttemptSucceeded").length, 1)
      assert.strictEqual((yield* r.calls()).length, 1)
    })))

  it.effect("past that bound, one that has begun and fell behind is told that its parts are cut off", () =>
    vector(Effect.gen(function*() {
      const long = "x".repeat(9 * 1024 * 1024)
      const r = yield* setUp([[stream("a", wait(100), long, wait(100), "c")]], { idempotency: {} })
      const first = yield* fork(read(r))
      const slow = yield* fork(Effect.exit(Stream.runForEach(r.client.stream(request), () => Effect.sleep(1000))))
      // What has come by then is its, whether it has looked at it or not.
      const waiting = yield* r.client.open(request)
      yield* TestClock.adjust(5000)
      assert.strictEqual(textOf(yield* Fiber.join(first)).length, long.length + 2)
      for (const exit of [yield* Fiber.join(slow), yield* Effect.exit(Stream.runDrain(waiting.parts))]) {
        const error = failure(exit)
        assert.deepInclude({ ...error }, {
          _tag: "StreamInterrupted",
          provider: "p",
          kind: "truncated",
          partialParts: 1
        })
        assert.strictEqual(error.ledger.filter(({ _tag }) => _tag === "AttemptSucceeded").length, 1)
      }
    })))

  it.effect("what stands in for a failure is stale for all, and all say what failed", () =>
    vector(Effect.gen(function*() {
      const fails = ScriptedProvider.fail({ _tag: "Overloaded" }, { delay: 100 })
      const r = yield* setUp([[ScriptedProvider.answer("old"), fails]], { idempotency: {}, cache: {}, retry: false })
      yield* ask("stream", r.client, { prompt: "Hi" })
      const both = [yield* fork(ask("stream", r.client, request)), yield* fork(ask("stream", r.client, request))]
      yield* TestClock.adjust(100)
      for (const fiber of both) {
        const { ledger, source, text } = yield* Fiber.join(fiber)
        assert.deepStrictEqual([source, text], ["stale", "old"])
        assert.strictEqual(ledger.filter(({ _tag }) => _tag === "AttemptFailed").length, 1)
      }
      assert.strictEqual((yield* r.calls()).length, 2)
    })))

  it.effect("a failure is that of all, with the attempts in each ledger", () =>
    vector(Effect.gen(function*() {
      const fails = ScriptedProvider.fail({ _tag: "Overloaded" }, { delay: 100 })
      const r = yield* setUp([[fails]], { idempotency: {}, retry: false })
      const both = [yield* fork(read(r)), yield* fork(read(r))]
      yield* TestClock.adjust(100)
      for (const fiber of both) {
        const error = failure((yield* Fiber.join(fiber)).exit)
        assert.strictEqual(error._tag, "ProviderError")
        assert.strictEqual(error.ledger.filter(({ _tag }) => _tag === "AttemptFailed").length, 1)
      }
    })))

  it.effect("what broke frees its key at once, although its readers are still there", () =>
    vector(Effect.gen(function*() {
      const broken = stream("a", wait(100), cut)
      const r = yield* setUp([[broken, ScriptedProvider.answer("again")]], { idempotency: {} })
      const scope = yield* Scope.make()
      const { response } = yield* Scope.provide(r.client.open(request), scope)
      const first = yield* fork(Effect.exit(response))
      yield* TestClock.adjust(100)
      assert.strictEqual(failure(yield* Fiber.join(first))._tag, "StreamInterrupted")
      assert.strictEqual(textOf(yield* read(r)), "again")
      yield* Scope.close(scope, Exit.void)
      yield* nothingHeld(r)
    })))
})

describe("a reader's deadline", () => {
  it.effect.each(
    [["a shorter", 100], ["the same", 300], ["a longer", 5000]] as const
  )(
    "is kept to, and the attempt's end seen, when one with %s one has left",
    ([, other]) =>
      vector(Effect.gen(function*() {
        for (const step of [ScriptedProvider.hang, stream("a", wait(10_000), "b")]) {
          const r = yield* setUp([[step]], { idempotency: {}, timeout: {}, retry: false })
          const begun = yield* now
          const stays = yield* fork(Effect.flatMap(read(r, Infinity, 300), ({ exit }) =>
            Effect.map(now, (at) =>
              [at - begun, failure(exit)] as const)))
          const leaves = yield* fork(read(r, Infinity, other))
          yield* TestClock.adjust(50)
          yield* Fiber.interrupt(leaves)
          yield* TestClock.adjust("1 minute")
          const [at, error] = yield* Fiber.join(stays)
          assert.deepStrictEqual([at, error._tag], [300, "DeadlineExceeded"])
          assert.include(
            error.ledger.map(({ _tag }) =>
              _tag
            ),
            "AttemptFailed"
          )
        }
      }))
  )

  it.effect.each<readonly [string, first: "none" | "leaves" | "stays", joins: number, begins: ReadonlyArray<string>]>([
    ["alone", "none", 0, ["a"]],
    ["after another one with the same has left", "leaves", 0, ["a"]],
    ["past the bound of what is kept", "stays", 50, ["a", "x".repeat(9 * 1024 * 1024)]]
  ])(
    "that rings before the work's own leaves that the moment it needs (%s)",
    ([, first, joins, begins]) =>
      vector(Effect.gen(function*() {
        // The timer of the work runs for a silence first, so that its turn comes after that of the reader.
        const stalls = stream(...begins, wait(100), "b", ScriptedProvider.stall)
        const r = yield* setUp([[stalls]], { idempotency: {}, timeout: { idle: 150 } })
        const other = first === "none" ? undefined : yield* fork(read(r, Infinity, 200))
        yield* TestClock.adjust(joins)
        const reading = yield* fork(read(r, Infinity, 200 - joins))
        yield* TestClock.adjust(50)
        if (first === "leaves") yield* Fiber.interrupt(other!)
        yield* TestClock.adjust(1000)
        const error = failure((yield* Fiber.join(reading)).exit)
        const ends = error.ledger.flatMap(({ _tag, at }) => _tag === "AttemptFailed" ? [at] : [])
        assert.deepStrictEqual([error._tag, ends], ["DeadlineExceeded", [200 - joins]])
      }))
  )

  it.effect("past the bound of what is kept, the work's own end is waited for", () =>
    vector(Effect.gen(function*() {
      const long = "x".repeat(9 * 1024 * 1024)
      const r = yield* setUp([[stream("a", long, wait(10_000), "c")]], { idempotency: {}, timeout: {} })
      const first = yield* fork(read(r, Infinity, 300))
      yield* TestClock.adjust(50)
      const second = yield* fork(read(r, Infinity, 250))
      yield* TestClock.adjust(1000)
      for (const fiber of [first, second]) {
        const error = failure((yield* Fiber.join(fiber)).exit)
        assert.strictEqual(error._tag, "DeadlineExceeded")
        assert.strictEqual(error.ledger.findLast(({ _tag }) => _tag.startsWith("Attempt"))?._tag, "AttemptFailed")
      }
    })))
})

describe("one that falls behind", () => {
  it.effect("has the whole answer, and its call ends when it has", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([live], { idempotency: {} })
      const fast = yield* fork(read(r))
      const slow = yield* fork(Effect.scoped(Effect.gen(function*() {
        const { parts, response } = yield* r.client.open(request)
        const read = yield* Stream.runCollect(Stream.tap(parts, () => Effect.sleep(200)))
        const text = read.map((part) => part.type === "text-delta" ? part.delta : "").join("")
        return [text, yield* now, yield* response] as const
      })))
      yield* TestClock.adjust(5000)
      assert.strictEqual(textOf(yield* Fiber.join(fast)), "abcd")
      const [text, ended, { ledger }] = yield* Fiber.join(slow)
      assert.deepStrictEqual([text, ended], ["abcd", 1200])
      assert.deepStrictEqual(ledger.slice(-2).map(({ _tag, at }) => [_tag, at]), [
        ["AttemptSucceeded", 300],
        ["CallEnded", 400]
      ])
      yield* nothingHeld(r)
    })))

  it.effect("past the bound of what is kept, is told of a break how much it received", () =>
    vector(Effect.gen(function*() {
      const long = "x".repeat(9 * 1024 * 1024)
      const r = yield* setUp([[stream("a", long, wait(100), cut)]], { idempotency: {} })
      const first = yield* fork(read(r))
      yield* TestClock.adjust(50)
      const second = yield* fork(read(r))
      yield* TestClock.adjust(1000)
      for (const [fiber, partialParts] of [[first, 2], [second, 0]] as const) {
        const { exit, seen } = yield* Fiber.join(fiber)
        const error = failure(exit)
        assert.lengthOf(seen, partialParts)
        assert.deepInclude({ ...error }, { _tag: "StreamInterrupted", kind: "truncated", partialParts })
        assert.strictEqual(error.ledger.filter(({ _tag }) => _tag === "AttemptFailed").length, 1)
      }
      yield* nothingHeld(r)
    })))
})

it.effect("what broke frees its key, also while somebody has not read it yet", () =>
  vector(Effect.gen(function*() {
    const r = yield* setUp([[stream("a", wait(100), cut), ScriptedProvider.answer("again")]], { idempotency: {} })
    const first = yield* fork(read(r))
    const scope = yield* Scope.make()
    const { response } = yield* Scope.provide(r.client.open(request), scope)
    yield* TestClock.adjust(100)
    assert.strictEqual(failure((yield* Fiber.join(first)).exit)._tag, "StreamInterrupted")
    assert.strictEqual(textOf(yield* read(r)), "again")
    assert.strictEqual(failure(yield* Effect.exit(response))._tag, "StreamInterrupted")
    yield* Scope.close(scope, Exit.void)
    yield* nothingHeld(r)
  })))

it.effect("nobody joins what is being given up, also while its key is still held for other processes", () =>
  vector(Effect.gen(function*() {
    const store = yield* Store.memory<string>({ maxEntries: 10 })
    const slow: Store.LeaseStore<string> = { ...store, release: (...args) => Effect.delay(store.release(...args), 50) }
    const script = [stream("a", ScriptedProvider.stall), ScriptedProvider.answer("again")]
    const r = yield* recordsIn(slow)(setUp([script], { idempotency: {} }))
    const first = yield* fork(read(r))
    yield* TestClock.adjust(10)
    yield* fork(Fiber.interrupt(first))
    yield* TestClock.adjust(10)
    const second = yield* fork(read(r))
    yield* TestClock.adjust(100)
    assert.strictEqual(textOf(yield* Fiber.join(second)), "again")
    yield* nothingHeld(r)
  })))

it.effect("who comes while the answer is being recorded has all of it, and the attempts in its ledger", () =>
  vector(Effect.gen(function*() {
    const store = yield* Store.memory<string>({ maxEntries: 10 })
    const slow: Store.LeaseStore<string> = {
      ...store,
      complete: (...args) => Effect.delay(store.complete(...args), 50)
    }
    const r = yield* recordsIn(slow)(setUp([live], { idempotency: {} }))
    const first = yield* fork(read(r))
    yield* TestClock.adjust(320)
    const second = yield* fork(Effect.scoped(Effect.flatMap(r.client.open(request), ({ response }) => response)))
    yield* TestClock.adjust(1000)
    yield* Fiber.join(first)
    const { ledger, source, text } = yield* Fiber.join(second)
    assert.deepStrictEqual([source, text], ["replay", "abcd"])
    assert.strictEqual(ledger.filter(({ _tag }) => _tag === "AttemptSucceeded").length, 1)
    assert.deepStrictEqual(yield* r.calls(), [0])
    yield* nothingHeld(r)
  })))

it.effect("work that is no effect is a bug of all its readers", () =>
  Effect.scoped(Effect.gen(function*() {
    const call = {
      deadline: { end: Infinity },
      root: { context: Context.empty(), now: () => 0 },
      of: () => call,
      scope: yield* Effect.scope
    } as never
    const told: Array<string> = []
    const ending = {
      whole: () => Effect.void,
      failed: () => Effect.void,
      broken: Effect.sync(() => void told.push("broken")),
      over: () => void told.push("over")
    }
    const broadcast = new Broadcast<never>(call, yield* Scope.make(), ending)
    broadcast.start((() => undefined) as never)
    const exits = yield* Effect.all([1, 2].map(() => Effect.exit(broadcast.join(call, undefined, (self) => self))))
    for (const exit of exits) assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
  })))
