// Where a client's options overrule the table, and what a target must be able to do to be asked.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import {
  type LlmConfig,
  LlmError,
  type LlmEvent,
  LlmGuard,
  type LlmProvider,
  type LlmRequest
} from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import {
  ask,
  chance,
  failure,
  fork,
  kinds,
  nothingHeld,
  type Script,
  setUp,
  success,
  timed,
  vector
} from "../support.ts"

const only = <T extends LlmEvent.LlmEvent["_tag"]>(ledger: LlmEvent.Ledger, tag: T) =>
  ledger.filter((event): event is Extract<LlmEvent.LlmEvent, { readonly _tag: T }> => event._tag === tag)

type Scripts = readonly [Script, ...ReadonlyArray<Script>]
type Changes = NonNullable<LlmProvider.LlmProvider["changes"]>

describe.each(kinds)("failover: %s", (kind) => {
  /** One call, how often each target was asked for it, and its ledger. */
  const played = (
    scripts: Scripts,
    options: LlmConfig.Options & { readonly guards?: ReadonlyArray<LlmGuard.Guard<LlmError.LlmError>> },
    request: Partial<LlmRequest.Input> = {},
    targets: Parameters<typeof setUp>[2] = [],
    traits: ReadonlyArray<ScriptedProvider.Options> = []
  ) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(scripts, options, targets, traits)
      const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", ...request }))
      yield* nothingHeld(r)
      const asked = yield* Effect.forEach(scripts, (_, i) => Effect.map(r.calls(i), ({ length }) => length))
      const ledger = exit._tag === "Success" ? exit.value.ledger : failure(exit).ledger
      return { at, exit, asked, ledger, skips: only(ledger, "TargetSkipped") }
    }))
  const refused = ScriptedProvider.fail({ _tag: "ContentPolicy" })
  const policyOf = (error: LlmError.LlmError) => error._tag === "ProviderError" ? error.reason._tag : error._tag

  it.effect("on: a refusal by policy goes on to the next target, when asked for, and not by itself", () =>
    Effect.gen(function*() {
      const scripts: Scripts = [[refused], [ScriptedProvider.answer("s")]]
      const alone = yield* played(scripts, {})
      assert.deepStrictEqual([policyOf(failure(alone.exit)), alone.asked], ["ContentPolicy", [1, 0]])
      const moved = yield* played(scripts, { failover: { on: { ContentPolicy: true } } })
      assert.deepStrictEqual([success(moved.exit).target, moved.asked], ["s", [1, 1]])
      assert.strictEqual(only(moved.ledger, "FailedOver").length, 1)
    }))

  it.effect("on: a failure that may not move the call is its own, after its retries", () =>
    Effect.gen(function*() {
      const { asked, exit } = yield* played([{ always: ScriptedProvider.overloaded }, [ScriptedProvider.answer("s")]], {
        failover: { on: { Overloaded: false } }
      })
      assert.deepStrictEqual([policyOf(failure(exit)), asked], ["Overloaded", [3, 0]])
    }))

  it.effect("on: a name that is no reason is refused, and what is absent is the table's", () =>
    Effect.gen(function*() {
      const wrong = { failover: { on: { Shed: true } } } as LlmConfig.Options
      const error = yield* Effect.flip(Effect.scoped(setUp([[]], wrong)))
      assert.strictEqual(error.path, "failover.on.Shed")
      const options = { retry: false, failover: { on: { Server: undefined, ContentPolicy: true } } } as const
      const { asked } = yield* played(
        [[ScriptedProvider.fail({ _tag: "Server" })], [ScriptedProvider.answer("s")]],
        options
      )
      assert.deepStrictEqual(asked, [1, 1])
    }))

  it.effect("when: decides instead of the table, once per failure, and never about what was not asked", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const options = (when: (error: LlmError.ProviderError | LlmError.AttemptTimeout) => boolean) => ({
        failover: false,
        timeout: { attempt: 1000, firstToken: 1000 },
        retry: {
          maxRetries: 2,
          baseDelay: 500,
          when: (error: LlmError.ProviderError | LlmError.AttemptTimeout) => {
            told.push(policyOf(error))
            return when(error)
          }
        }
      } as const)
      const conflict = ScriptedProvider.fail({ _tag: "Unknown" }, { status: 418 })
      const all = yield* played([[conflict, ScriptedProvider.hang, ScriptedProvider.answer("p")]], options(() => true))
      assert.deepStrictEqual([success(all.exit).target, all.asked], ["p", [3]])
      assert.deepStrictEqual(told.splice(0), ["Unknown", "AttemptTimeout"])
      const none = yield* played([[ScriptedProvider.overloaded, ScriptedProvider.answer("p")]], options(() => false))
      assert.deepStrictEqual([policyOf(failure(none.exit)), none.asked], ["Overloaded", [1]])
      assert.deepStrictEqual(told.splice(0), ["Overloaded"])
      yield* vector(Effect.gen(function*() {
        const full = { ...options(() => true), bulkhead: { maxConcurrent: 1, queue: 0 } }
        const r = yield* setUp([[ScriptedProvider.hang]], full)
        yield* fork(Effect.exit(ask(kind, r.client)))
        assert.strictEqual((yield* Effect.flip(ask(kind, r.client)))._tag, "BulkheadFull")
      }))
      assert.deepStrictEqual(told, [])
    }))

  it.effect("when: one that throws is a defect of the call, and nothing is held", () =>
    vector(Effect.gen(function*() {
      const when = (): boolean => {
        throw new Error("mine")
      }
      const r = yield* setUp([[ScriptedProvider.overloaded]], { retry: { when } })
      const { exit } = yield* timed(ask(kind, r.client))
      assert.isTrue(exit._tag === "Failure" && exit.cause.reasons.some(({ _tag }) => _tag === "Die"))
      yield* nothingHeld(r)
    })))

  it.effect("when: only `true` is a yes, not a promise of it", () =>
    Effect.gen(function*() {
      const run = yield* played([{ always: ScriptedProvider.overloaded }], {
        retry: { when: (() => Promise.resolve(false)) as never }
      })
      assert.deepStrictEqual(run.asked, [1])
    }))

  it.effect("maxAttempts: bounds retries and targets together", () =>
    Effect.gen(function*() {
      const down = { always: ScriptedProvider.overloaded }
      for (
        const [maxAttempts, asked] of [
          [1, [1, 0, 0]],
          [2, [2, 0, 0]],
          [3, [3, 0, 0]],
          [4, [3, 1, 0]],
          [7, [3, 3, 1]],
          [99, [3, 3, 3]]
        ] as const
      ) {
        const run = yield* played([down, down, down], { failover: { maxAttempts } })
        assert.deepStrictEqual<ReadonlyArray<number>>(run.asked, asked)
        assert.strictEqual(only(run.ledger, "CallEnded")[0]?.attempts, Math.min(maxAttempts, 9))
        const left = asked.filter((count) => count === 0).length
        assert.deepStrictEqual(run.skips.map(({ because }) => because), Array(left).fill("attempts-exhausted"))
        // One that was asked alone is its own failure.
        const tag = asked[1] === 0 ? "ProviderError" : "AllProvidersFailed"
        assert.strictEqual(failure(run.exit)._tag, tag)
      }
    }))

  it.effect("maxAttempts: a hedge takes none that the target's own line needs", () =>
    Effect.gen(function*() {
      const slow: Scripts = [{ always: ScriptedProvider.fail({ _tag: "Overloaded" }, { delay: 3000 }) }, {
        always: ScriptedProvider.fail({ _tag: "Overloaded" }, { delay: 9000 })
      }]
      for (const maxAttempts of [1, 2, 3, 4]) {
        const { asked, ledger } = yield* played(slow, { hedge: { delay: 1000 }, failover: { maxAttempts } })
        assert.isAtMost(asked[0] + asked[1]!, maxAttempts)
        assert.strictEqual(only(ledger, "CallEnded")[0]?.attempts, maxAttempts)
        const results = only(ledger, "Hedged").map(({ result }) => result)
        assert.deepStrictEqual(results[0], maxAttempts === 1 ? "suppressed" : "started")
      }
    }))

  const drops = (field: string, action: "dropped" | "substituted" | "unsupported" = "dropped"): Changes => (request) =>
    request.seed === undefined ? [] : [{ field, action }]

  it.effect("requireFeatures: who would leave it out is passed over", () =>
    Effect.gen(function*() {
      const scripts: Scripts = [[ScriptedProvider.answer("p")], [ScriptedProvider.answer("s")]]
      const traits = [{ changes: drops("seed") }]
      const usual = yield* played(scripts, {}, { seed: 1 }, [], traits)
      assert.strictEqual(success(usual.exit).target, "p")
      assert.deepInclude(only(usual.ledger, "RequestAdapted")[0], { target: "p", field: "seed", action: "dropped" })
      const required = { failover: { requireFeatures: ["stop", "seed"] } } as const
      const strict = yield* played(scripts, required, { seed: 1 }, [], traits)
      assert.strictEqual(success(strict.exit).target, "s")
      assert.deepInclude(strict.skips[0], { target: "p", because: "unsupported", field: "seed" })
      const unasked = yield* played(scripts, required, {}, [], traits)
      assert.strictEqual(success(unasked.exit).target, "p")
      const inside = yield* played(scripts, { failover: { requireFeatures: ["prompt"] } }, { seed: 1 }, [], [
        { changes: drops("prompt.toolResult.file", "substituted") }
      ])
      assert.strictEqual(success(inside.exit).target, "s")
    }))

  it.effect("requireFeatures: what nobody takes is the caller's to change", () =>
    Effect.gen(function*() {
      const traits = [{ changes: drops("seed") }, { changes: drops("seed", "substituted") }]
      for (const scripts of [[[], []], [[]]] satisfies ReadonlyArray<Scripts>) {
        const { asked, exit } = yield* played(
          scripts,
          { failover: { requireFeatures: ["seed"] } },
          { seed: 1 },
          [],
          traits
        )
        const error = failure(exit)
        assert.deepInclude(error, { _tag: "InvalidRequest", path: "seed" })
        assert.isTrue(asked.every((count) => count === 0))
      }
    }))

  it.effect("models: \"strict\" passes over a target for a name that it does not map", () =>
    Effect.gen(function*() {
      const scripts: Scripts = [[ScriptedProvider.answer("p")], [ScriptedProvider.answer("s")]]
      const traits = [{ models: { fast: "p-1" }, defaultModel: "p-0" }, { defaultModel: "s-0" }]
      const strict = [{ models: "strict" }] as const
      const mapped = yield* played(scripts, {}, { model: "fast" }, strict, traits)
      assert.deepStrictEqual([success(mapped.exit).target, mapped.asked], ["p", [1, 0]])
      const unnamed = yield* played(scripts, {}, {}, strict, traits)
      assert.strictEqual(success(unnamed.exit).target, "p")
      const unmapped = yield* played(scripts, {}, { model: "smart" }, strict, traits)
      assert.strictEqual(success(unmapped.exit).target, "s")
      assert.deepInclude(unmapped.skips[0], { target: "p", because: "no-model" })
    }))

  it.effect("models: \"strict\" everywhere, and a name that nobody maps, is a wrong request", () =>
    Effect.gen(function*() {
      const strict = [{ models: "strict" }, { models: "strict" }] as const
      const traits = [{ models: { fast: "p-1" } }, { models: { fast: "s-1" } }]
      for (const failover of [{}, false] as const) {
        for (const scripts of [[[], []], [[]]] satisfies ReadonlyArray<Scripts>) {
          const { asked, exit } = yield* played(scripts, { failover }, { model: "constructor" }, strict, traits)
          assert.deepInclude(failure(exit), { _tag: "InvalidRequest", path: "model" })
          assert.isTrue(asked.every((count) => count === 0))
        }
      }
    }))

  it.effect("what a request says of its targets holds, whether there is failover or not", () =>
    Effect.gen(function*() {
      const scripts: Scripts = [[ScriptedProvider.answer("p")], [ScriptedProvider.answer("s")]]
      for (const failover of [{}, false] as const) {
        // Without a strict target, a name that nobody maps is nobody's mistake: the only target gets its default.
        for (const request of [{}, { model: "fast" }]) {
          const second = yield* played(scripts, { failover }, { targets: ["s"], ...request })
          assert.deepStrictEqual([success(second.exit).target, second.asked, second.skips], ["s", [0, 1], []])
        }
        // A strict one that stands alone refuses what it does not map, whatever others could do.
        const request = { targets: ["p"], model: "fast" }
        const other = [{}, { defaultModel: "s-0" }]
        const strict = yield* played(scripts, { failover }, request, [{ models: "strict" }], other)
        assert.deepInclude(failure(strict.exit), { _tag: "InvalidRequest", path: "model" })
        assert.deepStrictEqual(strict.asked, [0, 0])
      }
    }))

  it.effect("without failover the first target is the only one: it judges the request, and never rests", () =>
    vector(Effect.gen(function*() {
      const other = [{}, { defaultModel: "s-0" }]
      const off = { failover: false, retry: false } as const
      const strict = yield* setUp([[], []], off, [{ models: "strict" }], other)
      const refused = yield* timed(ask(kind, strict.client, { prompt: "Hi", model: "fast" }))
      assert.deepInclude(failure(refused.exit), { _tag: "InvalidRequest", path: "model" })
      const down = { always: ScriptedProvider.fail({ _tag: "Authentication" }) }
      for (const [failover, left] of [[{ coolDown: "1 minute" }, 59_000], [false, undefined]] as const) {
        const r = yield* setUp([down, down], { ...off, failover })
        yield* timed(ask(kind, r.client), 0)
        yield* TestClock.adjust(1000)
        const resting = (yield* r.client.status).targets.map(({ coolingDown }) =>
          coolingDown && Duration.toMillis(coolingDown)
        )
        assert.deepStrictEqual(resting, [left, left])
      }
    })))

  it.effect("who could be asked what others cannot counts only among the targets of the request", () =>
    Effect.gen(function*() {
      const scripts: Scripts = [[ScriptedProvider.answer("p")], [ScriptedProvider.answer("s")], [
        ScriptedProvider.answer("t")
      ]]
      const tools = [{ name: "t", parameters: { type: "object" } }]
      const without = [{ supports: { tools: false } }, { supports: { tools: false } }, {}]
      const two = yield* played(scripts, {}, { tools, targets: ["p", "s"] }, without)
      assert.deepStrictEqual([two.asked, two.skips], [[1, 0, 0], []])
      for (const targets of [undefined, ["p", "t"]]) {
        const three = yield* played(scripts, {}, { tools, targets }, without)
        assert.deepStrictEqual(three.asked, [0, 0, 1])
        assert.deepInclude(three.skips[0], { target: "p", because: "unsupported", field: "tools" })
      }
    }))

  it.effect("what was too long for a target goes to another one of its size, but to no smaller one", () =>
    Effect.gen(function*() {
      const tooLong = ScriptedProvider.fail({ _tag: "ContextLength" })
      for (const [second, asked] of [[8000, [1, 1]], [7999, [1, 0]], [undefined, [1, 1]]] as const) {
        const targets = [{ contextWindow: 8000 }, { contextWindow: second }]
        const run = yield* played([[tooLong], [ScriptedProvider.answer("s")]], {}, {}, targets)
        assert.deepStrictEqual<ReadonlyArray<number>>(run.asked, asked)
        assert.deepStrictEqual(run.skips.map(({ because }) => because), asked[1] === 1 ? [] : ["context-too-small"])
      }
    }))

  /** Refuses these targets. */
  const door = (closed: ReadonlyArray<string>, error: LlmError.LlmError, failover: boolean | undefined) =>
    LlmGuard.make("door", ({ target }) => closed.includes(target) ? Effect.fail(error) : Effect.void, { failover })

  it.effect("a guard that refuses a target ends the call, or passes the target over if it says so", () =>
    Effect.gen(function*() {
      const scripts: Scripts = [[ScriptedProvider.answer("p")], [ScriptedProvider.answer("s")]]
      const hinted = new LlmError.RateLimited({ dimension: "requests", retryAfter: Duration.seconds(3) })
      for (const failover of [undefined, false]) {
        const ends = yield* played(scripts, { guards: [door(["p"], hinted, failover)] })
        assert.deepStrictEqual([failure(ends.exit)._tag, ends.asked, ends.skips], ["RateLimited", [0, 0], []])
      }
      const passes = yield* played(scripts, { guards: [door(["p"], hinted, true)] })
      assert.deepStrictEqual([success(passes.exit).target, passes.asked], ["s", [0, 1]])
      assert.deepStrictEqual(passes.skips, [
        { _tag: "TargetSkipped", call: 1, at: 0, target: "p", because: "guard", guard: "door", retryAfter: 3000 }
      ])
    }))

  it.effect("a call that is out of time before its next target was asked ends as that, whatever failed before", () =>
    Effect.gen(function*() {
      const waits = LlmGuard.make("waits", ({ target }) => target === "s" ? Effect.never : Effect.void)
      const options = { retry: false, timeout: {}, guards: [waits] } as const
      const { asked, at, exit } = yield* played([[ScriptedProvider.overloaded], []], options, { deadline: 1000 })
      assert.deepStrictEqual([failure(exit)._tag, at, asked], ["DeadlineExceeded", 1000, [1, 0]])
    }))

  it.effect("where guards refuse all, the call says when to come back, if they do", () =>
    Effect.gen(function*() {
      const hinted = new LlmError.RateLimited({ dimension: "requests", retryAfter: Duration.seconds(3) })
      for (const [refusal, retryAfter] of [[new LlmError.BulkheadFull({}), undefined], [hinted, 3000]] as const) {
        const { exit } = yield* played([[], []], { guards: [door(["p", "s"], refusal, true)] })
        const error = failure(exit)
        assert.strictEqual(error._tag, "AllProvidersUnavailable")
        const hint = error._tag === "AllProvidersUnavailable" ? error.retryAfter : undefined
        assert.strictEqual(hint && Duration.toMillis(hint), retryAfter)
      }
    }))

  const { answer, hang, overloaded } = ScriptedProvider
  const fails = { always: overloaded } as const
  it.effect.each<
    readonly [
      tag: string,
      options: LlmConfig.Options,
      p: Script,
      s: Script,
      target?: NonNullable<Parameters<typeof setUp>[2]>[number]
    ]
  >([
    ["AttemptTimeout", { timeout: { attempt: 100, firstToken: 100 } }, { always: hang }, [answer("s"), overloaded]],
    ["CircuitOpen", { circuitBreaker: { failureThreshold: 1 } }, fails, [answer("s"), overloaded]],
    ["RateLimited", {}, [answer("p")], fails, {
      limits: { limits: [{ dimension: "requests", limit: 1, per: "1 minute" }], maxWait: 0 }
    }],
    ["Shed", { loadShedding: { throttle: {} } }, fails, [answer("s"), overloaded]]
  ])(
    "%s of one target stands among the failures of all",
    ([tag, options, p, s, target = {}]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([p, s], { retry: false, ...options }, [target])
        const call = chance(0)(timed(ask(kind, r.client), 100))
        success((yield* call).exit)
        const error = failure((yield* call).exit)
        if (error._tag !== "AllProvidersFailed") return assert.fail(error._tag)
        assert.deepStrictEqual([error.targets, error.errors.map(({ _tag }) => _tag)], [["p", "s"], [
          tag,
          "ProviderError"
        ]])
      }))
  )

  it.effect("a full bulkhead passes its target over, and stands among the failures", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.hang], { always: ScriptedProvider.overloaded }], {
        retry: false,
        bulkhead: { maxConcurrent: 1, queue: 0 }
      })
      yield* fork(Effect.exit(ask(kind, r.client)))
      const error = yield* Effect.flip(ask(kind, r.client))
      if (error._tag !== "AllProvidersFailed") return assert.fail(error._tag)
      assert.deepStrictEqual(error.targets, ["p", "s"])
      assert.deepStrictEqual(error.errors.map(({ _tag }) => _tag), ["BulkheadFull", "ProviderError"])
      assert.deepStrictEqual(only(error.ledger, "TargetSkipped"), [
        { _tag: "TargetSkipped", call: 2, at: 0, target: "p", because: "bulkhead-full" }
      ])
    })))

  it.effect("what a guard makes of a failure decides, not the table; for a hedge as well", () =>
    vector(Effect.gen(function*() {
      const judging = (change: Partial<LlmError.Verdict>): LlmGuard.Guard<never> => ({
        name: "judge",
        acquire: () => Effect.succeed({ judge: (verdict) => ({ ...verdict, ...change }) })
      })
      const down = (delay: number) => ScriptedProvider.fail({ _tag: "Overloaded" }, { delay })
      const judged = (change: Partial<LlmError.Verdict>) => ({ retry: false, guards: [judging(change)] }) as const
      const final = yield* setUp([[down(0)], []], judged({ failover: false }))
      yield* timed(ask(kind, final.client))
      assert.deepStrictEqual([yield* final.calls(0), yield* final.calls(1)], [[0], []])
      for (const coolDown of [true, false]) {
        const r = yield* setUp([[down(3000)], [down(100)]], { ...judged({ coolDown }), hedge: { delay: 1000 } })
        yield* timed(ask(kind, r.client), 3000)
        const resting = (yield* r.client.status).targets.map((target) => target.coolingDown !== undefined)
        assert.deepStrictEqual(resting, [coolDown, coolDown])
      }
    })))

  it.effect("a circuit of one model passes its target over for that model alone, by the target's own name for it", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(
        [
          { script: [ScriptedProvider.overloaded], always: ScriptedProvider.answer("p") },
          { always: ScriptedProvider.answer("s") }
        ],
        { retry: false, circuitBreaker: { scope: "model", failureThreshold: 1 } },
        [],
        [{ models: { fast: "p-1", quick: "p-1", smart: "p-2" } }, { defaultModel: "s-0" }]
      )
      const target = (model: string | undefined) =>
        Effect.map(
          timed(ask(kind, r.client, model === undefined ? "Hi" : { prompt: "Hi", model }), 0),
          ({ exit }) => {
            const { ledger, target } = success(exit)
            assert.strictEqual(only(ledger, "AttemptRefused").length, 0)
            return [target, only(ledger, "TargetSkipped").map(({ because }) => because).join()]
          }
        )
      assert.deepStrictEqual(yield* target("fast"), ["s", ""])
      assert.deepStrictEqual(yield* target("fast"), ["s", "circuit-open"])
      assert.deepStrictEqual(yield* target("quick"), ["s", "circuit-open"])
      assert.deepStrictEqual(yield* target("smart"), ["p", ""])
      assert.deepStrictEqual(yield* target(undefined), ["p", ""])
    })))
})

describe.each(kinds)("%s", (kind) => {
  it.effect("too long for a target of unknown size goes to a large one", () =>
    vector(Effect.gen(function*() {
      const tooLong = ScriptedProvider.fail({ _tag: "ContextLength" })
      const r = yield* setUp([[tooLong], [ScriptedProvider.answer("fits")]], {}, [{}, { contextWindow: 1_000_000 }])
      assert.strictEqual((yield* ask(kind, r.client)).target, "s")
      const smaller = yield* setUp(
        [[tooLong], [ScriptedProvider.answer("never")], [ScriptedProvider.answer("fits")]],
        {},
        [
          { contextWindow: 100_000 },
          { contextWindow: 8000 },
          { contextWindow: 200_000 }
        ]
      )
      assert.strictEqual((yield* ask(kind, smaller.client)).target, "t")
    })))
})
