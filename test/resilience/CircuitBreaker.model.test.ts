import { assert, describe, it } from "@effect/vitest"
import { Effect, Ref, Schema } from "effect"
import * as CircuitBreaker from "effect-resilient-llm/resilience/CircuitBreaker"
import { TestClock } from "effect/testing"

// P5, P9: random operations drive the breaker and a model that keeps the whole log and counts from scratch.

interface Call {
  readonly epoch: number
  readonly probe: boolean
  readonly admittedAt: number
  expiresAt: number
  settled: boolean
  /** Nobody waits for its first sign of life any more. */
  heard: boolean
  /** When it was counted as slow while it was under way. */
  slowAt: number | undefined
}

/** A call, an end of a call, or both at once. */
interface Logged {
  readonly at: number
  readonly call: boolean
  readonly end: boolean
  readonly failed: boolean
  readonly slow: boolean
}

class Model {
  readonly policy: CircuitBreaker.Policy
  readonly changes: Array<string> = []
  state: CircuitBreaker.StateName = "closed"
  epoch = 0
  log: Array<Logged> = []
  readonly calls: Array<Call> = []
  successes = 0
  probes: Array<Call> = []
  openUntil = 0
  closedAt = 0
  openings = 0
  lastOpenFor = 0

  constructor(policy: CircuitBreaker.Policy) {
    this.policy = policy
  }

  private go(state: CircuitBreaker.StateName, to: CircuitBreaker.Transition["to"], now: number) {
    this.changes.push(`${this.state} > ${to} @ ${now}`)
    this.state = state
    this.epoch++
    this.log = []
    this.successes = 0
    this.probes = []
  }

  live(now: number) {
    return this.probes.filter((call) => !call.settled && call.expiresAt > now).length
  }

  inWindow(now: number) {
    const tenth = this.policy.window / 10
    return this.log.filter(({ at }) => Math.floor(at / tenth) > Math.floor(now / tenth) - 10)
  }

  streak() {
    const ends = this.log.filter(({ end }) => end)
    let row = 0
    for (let i = ends.length - 1; i >= 0 && ends[i]!.failed; i--) {
      row++
      if (i > 0 && ends[i]!.at - ends[i - 1]!.at > this.policy.window) break
    }
    return row
  }

  /** The newest buckets that hold enough calls. */
  private slowShare(now: number) {
    const bucketOf = ({ at }: Logged) => Math.floor(at / (this.policy.window / 10))
    const all = this.inWindow(now).filter(({ call }) => call)
    const buckets = [...new Set(all.map(bucketOf))].toSorted((a, b) => b - a)
    let newest: ReadonlyArray<Logged> = []
    for (const bucket of buckets) {
      if (newest.length < this.policy.minimumCalls) newest = all.filter((one) => bucketOf(one) >= bucket)
    }
    return newest.filter(({ slow }) => slow).length / newest.length
  }

  private get slowAfter(): number {
    return Number(this.policy.slowDuration)
  }

  /** What has turned slow meanwhile, in the order in which it did. */
  look(now: number) {
    const due = (call: Call) => call.admittedAt + this.slowAfter
    const turned = this.calls.filter((call) => !call.settled && !call.heard && due(call) < now)
    for (const call of turned.toSorted((a, b) => due(a) - due(b))) {
      const at = due(call) + 1
      call.heard = true
      if (call.epoch !== this.epoch || this.state === "forced-closed") continue
      if (this.state === "half-open") {
        if (at < call.expiresAt) this.trip(this.openings + 1, at, undefined)
        continue
      }
      if (this.state === "shadow" && at < this.closedAt) continue
      call.slowAt = at
      this.log.push({ at, call: true, end: false, failed: false, slow: true })
      this.judge(at, undefined)
    }
  }

  admits(now: number): boolean {
    switch (this.state) {
      case "open":
        return now >= this.openUntil
      case "forced-open":
        return false
      case "half-open": {
        const live = this.live(now)
        const most = Math.max(this.policy.halfOpenProbes, this.policy.successThreshold)
        return live < this.policy.halfOpenProbes && live + this.successes < most
      }
      default:
        return true
    }
  }

  admit(now: number): Call | undefined {
    this.look(now)
    if (!this.admits(now)) return undefined
    if (this.state === "open") this.go("half-open", "half-open", now)
    const probe = this.state === "half-open"
    const expiresAt = now + this.policy.probeLease
    const call = {
      epoch: this.epoch,
      probe,
      admittedAt: now,
      expiresAt,
      settled: false,
      heard: false,
      slowAt: undefined
    }
    if (probe) this.probes.push(call)
    this.calls.push(call)
    return call
  }

  renew(call: Call, now: number) {
    this.look(now)
    call.heard = true
    if (call.epoch === this.epoch && !call.settled && call.expiresAt > now) {
      call.expiresAt = now + this.policy.probeLease
    }
  }

  private trip(n: number, now: number, retryAfter: number | undefined) {
    let openFor = this.policy.recoveryTimeout
    for (let i = 1; i < n; i++) openFor = Math.min(openFor * 2, this.policy.maxRecoveryTimeout)
    if (retryAfter !== undefined) openFor = Math.max(openFor, Math.min(retryAfter, this.policy.maxRetryAfter))
    if (this.state === "shadow") {
      this.go("shadow", "would-open", now)
      this.closedAt = now + openFor
    } else {
      this.go("open", "open", now)
      this.openUntil = now + openFor
    }
    this.openings = n
    this.lastOpenFor = openFor
  }

  record(call: Call, outcome: CircuitBreaker.Outcome, now: number, details: CircuitBreaker.Details) {
    if (call.settled) return
    this.look(now)
    call.settled = true
    if (call.epoch !== this.epoch) return
    const slow = (details.duration ?? 0) > this.slowAfter
    if (this.state === "half-open") {
      if (now >= call.expiresAt || outcome === "ignored") return
      if (outcome === "failure" || slow) return this.trip(this.openings + 1, now, details.retryAfter)
      this.successes++
      if (this.successes === this.policy.successThreshold) {
        this.go("closed", "closed", now)
        this.closedAt = now
      }
      return
    }
    if (outcome === "ignored" || this.state === "forced-closed") return
    if (this.state === "shadow" && now < this.closedAt) return
    const { slowAt } = call
    const isCounted = slowAt !== undefined && this.inWindow(now).some(({ at }) => at === slowAt)
    this.log.push({ at: now, call: !isCounted, end: true, failed: outcome === "failure", slow: slow && !isCounted })
    if (outcome === "failure" || slow) this.judge(now, details.retryAfter)
  }

  private judge(now: number, retryAfter: number | undefined) {
    const calls = this.inWindow(now).filter(({ call }) => call).length
    const failures = this.inWindow(now).filter(({ failed }) => failed).length
    const enough = calls >= this.policy.minimumCalls
    if (
      this.streak() >= this.policy.failureThreshold ||
      (enough && failures / calls >= this.policy.failureRate) ||
      (enough && this.slowShare(now) >= this.policy.slowRate)
    ) {
      const again = this.openings > 0 && now - this.closedAt < this.lastOpenFor
      this.trip(again ? this.openings + 1 : 1, now, retryAfter)
    }
  }

  force(mode: CircuitBreaker.Mode, now: number) {
    this.look(now)
    const target = ({ open: "forced-open", closed: "forced-closed", "shadow": "shadow", auto: "closed" } as const)[mode]
    if (mode === "auto" ? ["closed", "open", "half-open"].includes(this.state) : this.state === target) return
    this.go(target, target, now)
    this.openings = 0
    this.closedAt = now
  }
}

const options: ReadonlyArray<CircuitBreaker.Options> = [
  {
    recoveryTimeout: 500,
    maxRecoveryTimeout: 6000,
    maxRetryAfter: 30_000,
    halfOpenProbes: 2,
    successThreshold: 2,
    probeLease: 1250
  },
  {
    window: 1000,
    failureThreshold: 2,
    recoveryTimeout: 100,
    maxRecoveryTimeout: 350,
    maxRetryAfter: 1000,
    probeLease: 500
  },
  {
    window: 1000,
    failureThreshold: false,
    minimumCalls: 4,
    failureRate: 0.7,
    recoveryTimeout: 1000,
    probeLease: 500,
    halfOpenProbes: 3
  },
  {
    window: 2000,
    failureThreshold: 4,
    failureRate: false,
    minimumCalls: 3,
    recoveryTimeout: 0,
    probeLease: 100,
    successThreshold: 3,
    slowCall: { duration: 10, rate: 0.6 }
  }
]

// Times at which something ends, and one more or less.
const Millis = Schema.Literals([
  0,
  1,
  9,
  10,
  11,
  99,
  100,
  101,
  199,
  200,
  499,
  500,
  501,
  999,
  1000,
  1001,
  1250,
  6000,
  60_000
])
const Dice = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 }))
const outcomes = "FFFFFSSSSI"
const outcomeOf = (dice: number) =>
  ({ F: "failure", S: "success", I: "ignored" } as const)[outcomes[dice] as "F" | "S" | "I"]
const Op = Schema.Union([
  Schema.TaggedStruct("advance", { millis: Millis }),
  // Waits for the end of the open time, or just not.
  Schema.TaggedStruct("recover", { off: Schema.Literals([-1, 0, 1]) }),
  Schema.TaggedStruct("call", { dice: Dice, times: Schema.Literals([1, 2, 5]) }),
  Schema.TaggedStruct("admit", {}),
  Schema.TaggedStruct("settle", {
    which: Schema.Natural,
    dice: Dice,
    retryAfter: Schema.Literals([0, 1, 300, 5000, 1e9]),
    duration: Schema.Literals([0, 10, 11])
  }),
  Schema.TaggedStruct("renew", { which: Schema.Natural }),
  // Mostly left alone.
  Schema.TaggedStruct("force", {
    dice: Dice,
    mode: Schema.Literals(["auto", "auto", "open", "closed", "shadow"])
  })
])

const legal = new Set([
  "closed > open",
  "open > half-open",
  "half-open > open",
  "half-open > closed",
  "shadow > would-open"
])

const reached = new Map<string, number>()

describe("CircuitBreaker model", () => {
  it.effect.prop(
    "agrees with a model that counts from scratch",
    {
      which: Schema.Literals([0, 1, 2, 3]),
      ops: Schema.Array(Op).check(Schema.isMaxLength(60), Schema.isMinLength(20))
    },
    ({ ops, which }) =>
      Effect.gen(function*() {
        const chosen = { slowCall: false, ...options[which]! } as const
        const policy = CircuitBreaker.policy(chosen)
        const model = new Model(policy)
        const changes: Array<string> = []
        const breaker = yield* CircuitBreaker.make({
          key: "p",
          ...chosen,
          onTransition: ({ from, now, to }) => changes.push(`${from} > ${to} @ ${now}`)
        })
        const calls: Array<readonly [CircuitBreaker.Permit, Call]> = []
        let now = 0

        const admit = () => {
          const expected = model.admit(now)
          assert.strictEqual(breaker.isOpenUnsafe(now), expected === undefined)
          const permit = breaker.admitUnsafe(now)
          assert.strictEqual(permit !== undefined, expected !== undefined)
          if (permit === undefined || expected === undefined) return
          assert.strictEqual(permit.slot > 0, expected.probe)
          calls.push([permit, expected])
        }
        const settle = (index: number, outcome: CircuitBreaker.Outcome, details: CircuitBreaker.Details) => {
          const call = calls[index]
          if (call === undefined) return
          // What has turned slow meanwhile may open it first.
          breaker.isOpenUnsafe(now)
          const before = Ref.getUnsafe(breaker.state)._tag
          breaker.recordUnsafe(call[0], outcome, now, details)
          model.record(call[1], outcome, now, details)
          if (outcome === "success" && (details.duration ?? 0) <= Number(policy.slowDuration) && before !== "Open") {
            assert.notStrictEqual(Ref.getUnsafe(breaker.state)._tag, "Open", "a success never opens")
          }
        }

        for (const op of ops) {
          const seen = changes.length
          switch (op._tag) {
            case "advance":
              now += op.millis
              yield* TestClock.adjust(op.millis)
              break
            case "recover": {
              if (model.state !== "open") break
              const millis = Math.max(0, model.openUntil - now + op.off)
              now += millis
              yield* TestClock.adjust(millis)
              break
            }
            case "call":
              for (let i = 0; i < op.times; i++) {
                const before = calls.length
                admit()
                if (calls.length > before) settle(before, outcomeOf(op.dice), {})
              }
              break
            case "admit":
              admit()
              break
            case "settle":
              settle(op.which % Math.max(1, calls.length), outcomeOf(op.dice), {
                retryAfter: op.retryAfter,
                duration: op.duration
              })
              break
            case "renew": {
              const call = calls.at(-1 - op.which % 3)
              if (call !== undefined) {
                breaker.renewUnsafe(call[0], now)
                model.renew(call[1], now)
              }
              break
            }
            case "force":
              if (op.dice > 1) break
              yield* breaker.force(op.mode)
              model.force(op.mode, now)
          }
          const status = yield* breaker.status
          model.look(now)
          const counts = status.state === "closed" || status.state === "shadow"
          assert.deepStrictEqual(
            {
              changes,
              state: status.state,
              calls: status.calls,
              failures: status.failures,
              streak: status.streak,
              probes: status.probes,
              rejects: breaker.isOpenUnsafe(now)
            },
            {
              changes: model.changes,
              state: model.state,
              calls: counts ? model.inWindow(now).filter((one) => one.call).length : 0,
              failures: counts ? model.inWindow(now).filter((one) => one.failed).length : 0,
              streak: counts ? model.streak() : 0,
              probes: model.live(now),
              rejects: !model.admits(now)
            }
          )
          const state = Ref.getUnsafe(breaker.state)
          if (state._tag === "Open" && state.mode === "auto") assert.strictEqual(state.until, model.openUntil)
          if (state._tag === "Closed") assert.isAtMost(state.older.length, 9, "nothing is unbounded")
          if (state._tag === "HalfOpen") assert.isAtMost(state.slots.length, policy.halfOpenProbes)
          assert.isAtMost(status.probes, policy.halfOpenProbes)
          for (const change of changes.slice(seen)) {
            const name = change.split(" @ ")[0]!
            reached.set(name, (reached.get(name) ?? 0) + 1)
            if (op._tag !== "force") assert.isTrue(legal.has(name), name)
          }
        }
        // P9: at quiescence nothing is held.
        for (let i = 0; i < calls.length; i++) settle(i, "ignored", {})
        assert.strictEqual((yield* breaker.status).probes, 0)
      }).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 700, seed: 1 } }
  )

  it("reached every transition", () => {
    for (const name of legal) assert.isAbove(reached.get(name) ?? 0, 20, name)
  })
})
