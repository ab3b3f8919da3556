import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scheduler, Schema } from "effect"
import * as Bulkhead from "effect-resilient-llm/resilience/Bulkhead"
import { TestClock } from "effect/testing"
import { calm, countingSleeps, now, start } from "./waiting.ts"

// -----------------------------------------------------------------------------
// interruption at every step
// -----------------------------------------------------------------------------

const BUDGETS = Array.from({ length: 62 }, (_, i) => i + 3)

type Enter = (bulkhead: Bulkhead.Bulkhead, entered: () => void) => Effect.Effect<unknown, unknown>

const ways: ReadonlyArray<readonly [name: string, enter: Enter]> = [
  ["protect", (bulkhead, entered) => bulkhead.protect(Effect.andThen(Effect.sync(entered), Effect.sleep(100)))],
  [
    "acquireRelease",
    (bulkhead, entered) =>
      Effect.acquireRelease(
        bulkhead.acquire({ onAcquired: entered }),
        (permit) => Effect.sync(() => permit.releaseUnsafe())
      )
        .pipe(Effect.andThen(Effect.sleep(100)), Effect.scoped)
  ],
  [
    "restore",
    (bulkhead, entered) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(bulkhead.acquire({ restore }), (permit) => {
          entered()
          return Effect.ensuring(restore(Effect.sleep(100)), Effect.sync(() => permit.releaseUnsafe()))
        })
      )
  ]
]

/** One is inside, two wait; the place becomes free; `victim` is interrupted `steps` yields later. */
const scenario = (enter: Enter, victim: 0 | 1, budget: number, steps: number) =>
  Effect.gen(function*() {
    const where = `budget ${budget}, step ${steps}`
    const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
    const permit = yield* bulkhead.acquire()
    let inside = 0
    const fibers = yield* Effect.forEach([0, 1, 2], () =>
      start(
        enter(bulkhead, () => {
          inside += 1
        }).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, budget))
      ))
    yield* calm
    permit.releaseUnsafe()
    for (let i = 0; i < steps; i++) yield* Effect.yieldNow
    const isInside = inside > 0
    fibers[victim]!.interruptUnsafe()
    for (let i = 0; i < 6; i++) yield* Effect.andThen(calm, TestClock.adjust(100))
    const exits = yield* Effect.forEach(fibers, Fiber.await)
    for (const [i, exit] of exits.entries()) {
      if (i !== victim) assert.isTrue(Exit.isSuccess(exit), where)
    }
    assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 0, maxConcurrent: 1, queued: 0, maxQueued: 100 }, where)
    return isInside
  })

describe("Bulkhead under interruption", () => {
  for (const [how, enter] of ways) {
    it.effect(
      `K8 (Effect#6910 Effect#6638 Effect#8391) ${how}: a holder, a waiter, and one just granted, at every step`,
      () =>
        countingSleeps((sleeps) =>
          Effect.gen(function*() {
            let early = 0
            for (const budget of BUDGETS) {
              for (const victim of [0, 1] as const) {
                // Twice more after the place was taken: the victim is a holder, or still a waiter.
                for (let steps = 0, more = 3; more > 0; steps++) {
                  if (yield* scenario(enter, victim, budget, steps)) more -= 1
                  else early += 1
                }
              }
            }
            assert.isAbove(early, 60)
            assert.strictEqual(sleeps.pending, 0)
          })
        )
    )
  }
})

// -----------------------------------------------------------------------------
// reference model
// -----------------------------------------------------------------------------

interface Wait {
  readonly name: number
  readonly weight: number
  readonly deadline: number
}

type Outcome = { readonly name: number; readonly at: number; readonly isGranted: boolean }

class Model {
  now = 0
  used = 0
  waits: Array<Wait> = []
  outcomes: Array<Outcome> = []
  held = new Map<number, number>()
  max: number
  readonly queue: number
  readonly maxWait: number

  constructor(max: number, queue: number, maxWait: number) {
    this.max = max
    this.queue = queue
    this.maxWait = maxWait
  }

  private end(name: number, isGranted: boolean): void {
    this.outcomes.push({ name, at: this.now, isGranted })
  }

  private grant(name: number, weight: number): void {
    this.used += weight
    this.held.set(name, weight)
    this.end(name, true)
  }

  serve(): void {
    let first = this.waits[0]
    while (first !== undefined && this.used + first.weight <= this.max) {
      this.grant(first.name, first.weight)
      this.waits.shift()
      first = this.waits[0]
    }
  }

  acquire(name: number, weight: number, maxWait: number): void {
    if (weight > this.max) return this.end(name, false)
    if (this.waits.length === 0 && this.used + weight <= this.max) return this.grant(name, weight)
    if (this.waits.length >= this.queue) return this.end(name, false)
    this.waits.push({ name, weight, deadline: this.now + Math.min(maxWait, this.maxWait) })
  }

  leave(isLeaving: (wait: Wait) => boolean, isRefused: boolean): void {
    for (const wait of this.waits) if (isRefused && isLeaving(wait)) this.end(wait.name, false)
    this.waits = this.waits.filter((wait) => !isLeaving(wait))
    this.serve()
  }

  advance(millis: number): void {
    for (let i = 0; i < millis; i++) {
      this.now += 1
      this.leave((wait) => wait.deadline === this.now, true)
    }
  }

  release(name: number): void {
    this.used -= this.held.get(name) ?? 0
    this.held.delete(name)
    this.serve()
  }
}

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Acquire = Schema.TaggedStruct("acquire", { weight: int(1, 6), turns: int(1, 8) })
const Release = Schema.TaggedStruct("release", { which: int(0, 30) })
const Advance = Schema.TaggedStruct("advance", { turns: int(1, 4) })

const Op = Schema.Union([
  Acquire,
  Acquire,
  Acquire,
  Release,
  Release,
  Advance,
  Schema.TaggedStruct("cancel", { which: int(0, 30) }),
  Schema.TaggedStruct("resize", { max: int(1, 8) })
])

// Operations come at multiples of a turn, and every deadline lies somewhere else in its turn: there are no ties.
const TURN = 64

const play = (ops: ReadonlyArray<typeof Op.Type>) =>
  countingSleeps((sleeps) =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 5, queue: 4, maxWait: Infinity })
      const model = new Model(5, 4, Infinity)
      const outcomes: Array<Outcome> = []
      const permits = new Map<number, Bulkhead.Permit>()
      const fibers = new Map<number, Fiber.Fiber<unknown, unknown>>()
      for (const [name, op] of ops.entries()) {
        switch (op._tag) {
          case "acquire": {
            const maxWait = op.turns * TURN + name
            model.acquire(name, op.weight, maxWait)
            fibers.set(
              name,
              yield* start(Effect.matchEffect(bulkhead.acquire({ weight: op.weight, maxWait }), {
                onSuccess: (permit) =>
                  Effect.map(now, (at) => {
                    permits.set(name, permit)
                    outcomes.push({ name, at, isGranted: true })
                  }),
                onFailure: () => Effect.map(now, (at) => outcomes.push({ name, at, isGranted: false }))
              }))
            )
            break
          }
          case "release": {
            const [one, permit] = [...permits][op.which % Math.max(permits.size, 1)] ?? []
            if (one === undefined) break
            model.release(one)
            permit?.releaseUnsafe()
            break
          }
          case "cancel": {
            const wait = model.waits[op.which % Math.max(model.waits.length, 1)]
            if (wait === undefined) break
            model.leave((other) => other === wait, false)
            yield* Fiber.interrupt(fibers.get(wait.name)!)
            break
          }
          case "resize": {
            model.max = op.max
            model.leave((wait) => wait.weight > op.max, true)
            yield* bulkhead.resize(op.max)
            break
          }
          case "advance": {
            model.advance(op.turns * TURN)
            yield* TestClock.adjust(op.turns * TURN)
          }
        }
        yield* calm
        const of = (list: ReadonlyArray<Outcome>, isGranted: boolean) =>
          list.filter((outcome) => outcome.isGranted === isGranted)
        assert.deepStrictEqual(of(outcomes, true), of(model.outcomes, true))
        assert.deepStrictEqual(
          of(outcomes, false).toSorted((a, b) => a.name - b.name),
          of(model.outcomes, false).toSorted((a, b) => a.name - b.name)
        )
        assert.deepStrictEqual(
          yield* bulkhead.snapshot,
          { inUse: model.used, maxConcurrent: model.max, queued: model.waits.length, maxQueued: 4 }
        )
      }
      for (const fiber of fibers.values()) yield* Fiber.interrupt(fiber)
      for (const permit of permits.values()) permit.releaseUnsafe()
      yield* calm
      const { inUse, queued } = yield* bulkhead.snapshot
      assert.deepStrictEqual([inUse, queued, sleeps.pending], [0, 0, 0])
    })
  )

describe("Bulkhead against its model", () => {
  it.effect.prop(
    "grants, refusals and what is held are those of the model (P1, P3, P9)",
    { ops: Schema.Array(Op).check(Schema.isMinLength(30), Schema.isMaxLength(60)) },
    ({ ops }) => Effect.provide(Effect.scoped(play(ops)), TestClock.layer()),
    { arbitrary: { runs: 150, seed: 3 } }
  )
})
