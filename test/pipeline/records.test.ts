import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Redacted } from "effect"
import { ProviderError } from "effect-resilient-llm/LlmError"
import type { LlmEvent } from "effect-resilient-llm/LlmEvent"
import type { Answer } from "effect-resilient-llm/LlmResponse"
import { Store } from "effect-resilient-llm/persistence"
import { answersIn, recordsIn, type Shared } from "../../src/pipeline/records.ts"

const usage = {
  inputTokens: { total: 3, uncached: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 1, text: undefined, reasoning: undefined }
}
const answer = {
  parts: [
    { type: "text", text: "Grüezi 😀", metadata: { vendor: { none: undefined, some: [1, null] } } },
    { type: "finish", reason: "stop", usage }
  ],
  target: "openai",
  provider: "openai",
  model: undefined
} as unknown as Answer

/** What JSON leaves of it. */
const plainly = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

/** A store of texts, and all that was ever put into it. */
const noted = Effect.map(Store.memory<string>({ maxEntries: 10 }), (store) => {
  const notes: Array<readonly [key: string, text: string]> = []
  const texts: Store.LeaseStore<string> = {
    ...store,
    set: (key, text, options) => {
      notes.push([key, text])
      assert.strictEqual(options.size, 2 * text.length)
      return store.set(key, text, options)
    },
    complete: (key, fence, text, options) => {
      notes.push([key, text])
      return store.complete(key, fence, text, options)
    }
  }
  return { notes, store, texts }
})

const ttl = 60_000

describe("answers of a cache as texts", () => {
  it.effect("come back as they were, under keys that say nothing", () =>
    Effect.gen(function*() {
      const { notes, texts } = yield* noted
      const answers = answersIn(texts)
      yield* answers.set("the user's question", answer, { ttl })
      const found = yield* answers.get("the user's question")
      assert.deepStrictEqual(plainly(found?.value), plainly(answer))
      assert.strictEqual(found?.age, 0)
      assert.match(notes[0]![0], /^[0-9a-f]{64}$/)
      yield* answers.remove("the user's question")
      assert.isUndefined(yield* answers.get("the user's question"))
    }))

  it.effect("texts of somebody else, or of another version, are not there", () =>
    Effect.gen(function*() {
      const { notes, store, texts } = yield* noted
      const answers = answersIn(texts)
      yield* answers.set("q", answer, { ttl })
      const [key, text] = notes[0]!
      for (
        const other of [
          "",
          "no JSON",
          "null",
          "[]",
          "{}",
          text.slice(1),
          text.replace("\"target\":\"openai\"", "\"target\":1")
        ]
      ) {
        yield* store.set(key, other, { ttl, size: 1 })
        assert.isUndefined(yield* answers.get("q"), other)
      }
      // A field that a later version adds is not in the way.
      yield* store.set(key, text.replace("{", "{\"later\":1,"), { ttl, size: 1 })
      assert.deepStrictEqual(plainly((yield* answers.get("q"))?.value), plainly(answer))
    }))

  it.effect("what has no JSON is not kept, and the cache is told", () =>
    Effect.gen(function*() {
      const { notes, texts } = yield* noted
      const wrong = { ...answer, parts: [{ type: "text", text: 1n }] } as unknown as Answer
      assert.isTrue(Exit.isFailure(yield* Effect.exit(answersIn(texts).set("q", wrong, { ttl }))))
      const nameless = { ...answer, target: 1 } as unknown as Answer
      assert.deepInclude(yield* Effect.flip(answersIn(texts).set("q", nameless, { ttl })), {
        _tag: "StoreError",
        operation: "set"
      })
      assert.deepStrictEqual(notes, [])
    }))

  it.effect("a store that gives no effect is named in the bug", () =>
    Effect.gen(function*() {
      const { texts } = yield* noted
      const wrong = (() => undefined) as never
      const answers = answersIn({ ...texts, get: wrong, set: wrong })
      const bugs = [answers.get("q"), answers.set("q", answer, { ttl })].map((effect) =>
        Effect.map(Effect.exit(effect), (exit) => Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : exit)
      )
      const bug = "TypeError: The store returned what is no effect, but nothing"
      assert.deepStrictEqual<unknown>(yield* Effect.all(bugs), [bug, bug])
    }))
})

describe("records of calls as texts", () => {
  const events: ReadonlyArray<LlmEvent> = []
  const done = (store: Store.LeaseStore<string>, record: Parameters<ReturnType<typeof recordsIn>["complete"]>[2]) =>
    Effect.gen(function*() {
      const records = recordsIn<unknown>(store)
      const acquired = yield* records.acquire("k", 1000)
      assert.strictEqual(acquired._tag, "Acquired")
      const fence = acquired._tag === "Acquired" ? acquired.fence : 0
      assert.isTrue(yield* records.complete("k", fence, record, { ttl }))
      const found = yield* records.acquire("k", 1000)
      return found._tag === "Found" ? found.value : assert.fail(found._tag)
    })

  it.effect("an answer with what it took", () =>
    Effect.gen(function*() {
      const { texts } = yield* noted
      const value: Shared = { answer, source: "provider", age: 0, work: { startedAt: 5, events } }
      const found = yield* done(texts, { _tag: "Success", fingerprint: "f", value })
      assert.deepStrictEqual(plainly(found), plainly({ _tag: "Success", fingerprint: "f", value }))
    }))

  it.effect.each([["\"startedAt\":5", "\"startedAt\":true"], ["\"events\":[]", "\"events\":1"]] as const)(
    "a record in which %s is %s is of another version, and is replaced",
    ([from, to]) =>
      Effect.gen(function*() {
        const { notes, store, texts } = yield* noted
        const value: Shared = { answer, source: "provider", age: 0, work: { startedAt: 5, events } }
        yield* done(texts, { _tag: "Success", fingerprint: "f", value })
        const [key, text] = notes[0]!
        assert.include(text, from)
        yield* store.set(key, text.replace(from, to), { ttl })
        assert.strictEqual((yield* recordsIn<unknown>(texts).acquire("k", 1000))._tag, "Acquired")
      })
  )

  it.effect("a refusal as the same error, without the vendor's words", () =>
    Effect.gen(function*() {
      const { notes, texts } = yield* noted
      const error = new ProviderError({
        provider: "openai",
        reason: { _tag: "InvalidRequest" },
        status: 400,
        code: "bad",
        retryAfter: Duration.seconds(2),
        detail: Redacted.make("SECRET words")
      })
      const found = yield* done(texts, { _tag: "Failure", fingerprint: "f", error })
      const back = found._tag === "Failure" ? found.error : assert.fail()
      assert.instanceOf(back, ProviderError)
      assert.deepInclude(plainly({ ...(back as object), retryAfter: undefined }), {
        provider: "openai",
        reason: { _tag: "InvalidRequest" },
        status: 400,
        code: "bad"
      })
      assert.isTrue(Duration.equals(back.retryAfter!, Duration.seconds(2)))
      assert.isUndefined(back.detail)
      assert.notInclude(JSON.stringify(notes), "SECRET")
    }))
})
