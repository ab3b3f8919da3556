// What `explain` says a call can come to at most, against real clients with configurations at random: no call exceeds it, and a
// vendor that does its worst reaches it.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { LlmClient, LlmConfig, type LlmRequest } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { Idempotency, ResponseCache } from "effect-resilient-llm/resilience"
import { ScriptedProvider, VirtualTime } from "effect-resilient-llm/testing"
import { now } from "../support.ts"
import {
  call,
  dice,
  type Door,
  type Fate,
  hang,
  ids,
  type Kind,
  limited,
  optionsOf,
  overloaded,
  type Plan,
  planOf,
  quota,
  type Script,
  type Told,
  unsent,
  type World,
  worldOf
} from "./bounds.world.ts"

const RUNS = Number(process.env["BOUNDS_RUNS"] ?? 250)
const seeds = Array.from({ length: RUNS }, (_, i) => i + 1)
const kinds = ["complete", "stream"] as const

/** A sleep is whole milliseconds, and a share of a deadline need not be. */
const TICK = 1

const explain = ({ options, targets }: World): LlmConfig.Explanation =>
  Effect.runSync(LlmConfig.explain(targets, options))

const limitOf = ({ timeout }: Plan, kind: Kind): number =>
  timeout === false
    ? Infinity
    : kind === "complete"
    ? timeout.attempt
    : Math.min(timeout.attempt, timeout.firstToken ?? Infinity)

/** When the purse of a target pays for one more retry, from a moment on. It pays then. */
const purseOf = ({ budget }: Plan) => {
  if (budget !== false && budget.capacity < 1) return () => Infinity
  if (budget === false || budget.perAttempt > 0) return (now: number): number => now
  let tokens = budget.capacity
  let since = 0
  return (now: number): number => {
    const perMilli = budget.perSecond / 1000
    const filled = Math.min(budget.capacity, tokens + (now - since) * perMilli)
    const at = filled >= 1 ? now : now + Math.ceil((1 - filled) / perMilli - 1e-9)
    if (at === Infinity) return at
    tokens = Math.min(budget.capacity, filled + (at - now) * perMilli) - 1
    since = at
    return at
  }
}

const deadlineOf = ({ timeout }: Plan): number => timeout === false ? Infinity : timeout.deadline

/** One call in a world of its own. */
const one = (world: World, kind: Kind, input: Parameters<typeof call>[3] = {}): Told => {
  let told: Told | undefined
  call(world, kind, world.time.now(), input, (end) => {
    told = end
  })
  world.time.run()
  if (told === undefined) throw new Error("it never ended")
  return told
}

it("no bound is infinite unless an option is", () => {
  for (const seed of Array.from({ length: 2000 }, (_, i) => i)) {
    const plan = planOf(seed)
    const { attempts, targets, waits } = Effect.runSync(
      LlmConfig.explain(ids.slice(0, plan.targets.length), { ...optionsOf(plan), rateLimit: plan.bucket })
    )
    const isOpen = deadlineOf(plan) === Infinity
    const where = JSON.stringify(plan)
    assert.isTrue(Number.isSafeInteger(attempts), where)
    for (const wait of [waits.complete, waits.joined, ...targets.map(({ wait }) => wait)]) {
      assert.strictEqual(wait === Infinity, isOpen && limitOf(plan, "complete") === Infinity, where)
    }
    assert.strictEqual(waits.firstPart === Infinity, isOpen && limitOf(plan, "stream") === Infinity, where)
    assert.strictEqual(waits.stream, deadlineOf(plan), where)
  }
})

it("whatever is set, what is said are numbers", () => {
  const { of } = dice(7)
  const [wait, queue] = [() => of([0, 1, 1000, Infinity]), () => of([0, 1, 256])]
  for (let i = 0; i < 1000; i++) {
    const options: LlmConfig.Options = {
      timeout: of([false, undefined, {
        attempt: of([false, 1, 1000]),
        firstToken: of([undefined, false, 5]),
        deadline: of([false, 1, 5000, 86_400_000])
      }]),
      retry: of([false, undefined, {
        maxRetries: of([0, 1, 3, 2000, 1e9]),
        baseDelay: wait(),
        maxDelay: wait(),
        factor: of([1, 1.1, 1e6]),
        jitter: of(["none", "full", "equal"]),
        maxRetryAfter: wait()
      }]),
      retryBudget: of([false, undefined, {
        capacity: of([0, 0.5, 1, 3]),
        perAttempt: of([0, 0.2]),
        perSecond: of([0, 0.1, 1000])
      }]),
      failover: of([false, undefined, {
        maxRetryAfter: wait(),
        coolDown: wait(),
        maxAttempts: of([undefined, 1, 4, 5000])
      }]),
      bulkhead: of([undefined, { maxWait: wait(), queue: queue() }]),
      rateLimit: of([false, undefined, { maxWait: wait(), queue: queue() }]),
      circuitBreaker: of([false, undefined]),
      hedge: of([undefined, {
        delay: of([0, 50, 1e9, "p95", Infinity]),
        minDelay: of([0, 500]),
        maxHedges: of([1, 3, 1e9])
      }])
    }
    const targets = ["a", "b", "c", "d", "e", "f"].slice(0, of([1, 2, 3, 6]))
    const guards = of([[], [{ name: "mine", acquire: () => Effect.never }]])
    const told = Effect.runSync(LlmConfig.explain(targets, { ...options, guards }))
    const where = JSON.stringify([targets, options])
    const each = told.targets.flatMap(({ attempts, line, wait }) => [attempts, line, wait])
    for (const number of [told.attempts, ...Object.values(told.waits), ...each]) assert.isAtLeast(number, 0, where)
    assert.notMatch(LlmConfig.render(told), /NaN|undefined|Infinity/)
  }
})

describe("no call exceeds what is said", () => {
  const fate = (plan: Plan, kind: Kind, { from, is, of }: ReturnType<typeof dice>): Fate => {
    const limit = Math.min(limitOf(plan, kind), 6000)
    const after = of([0, 0, from(0, limit), limit - 1, limit + 1])
    if (is(0.1) && limitOf(plan, kind) < Infinity) return hang
    if (is(0.08)) return { after }
    const hints = plan.retry === false ? [0] : [0, plan.retry.maxRetryAfter, from(0, plan.retry.maxRetryAfter), 1e6]
    return { after, error: of([limited(), limited(of(hints)), unsent, quota, overloaded, overloaded]) }
  }

  it("whatever vendors, lines and dice do, alone and with others", () => {
    let attempts = 0
    for (const seed of seeds) {
      const plan = planOf(seed)
      const luck = dice(seed + 1000)
      const kind = luck.of(kinds)
      const world = worldOf(plan, {
        asked: () => fate(plan, kind, luck),
        arrived: (door, target) => {
          const line = door === "bucket" ? plan.bucket : plan.targets[target]![door]
          return line === undefined || luck.is(0.4) ? 0 : Math.round(line.maxWait * luck.of([0.5, 0.999, 1, 1.2]))
        },
        draw: () => luck.of([0, luck.next(), 0.999999])
      })
      const said = explain(world)
      const { options: { timeout }, targets: all } = world
      const forever = Effect.runSync(LlmConfig.explain(all, {
        ...world.options,
        timeout: timeout === false ? false : { ...timeout, deadline: false }
      }))
      const ended: Array<Told> = []
      for (let i = 0; i < 12; i++) {
        const targets = luck.is(0.2) ? [ids[luck.from(0, plan.targets.length - 1)]!] : undefined
        const idempotencyKey = luck.is(0.3) ? "same" : undefined
        const at = luck.from(0, 5) * 100 + world.time.now()
        call(world, kind, at, { targets, idempotencyKey, cache: "never" }, (told) => ended.push(told))
        if (luck.is(0.5)) world.time.run()
      }
      world.time.run()
      for (const told of ended) {
        const where = `seed ${seed}: ${JSON.stringify(plan)}`
        attempts += told.attempts
        // What was done for a call that is joined may have begun before it, and goes on in its time.
        const isJoined = told.ledger.some((event) => event._tag === "Idempotency" && event.result !== "generated")
        const { waits } = said
        const [most, longest] = isJoined
          ? [forever, waits.joined!]
          : [said, kind === "complete" ? waits.complete : waits.firstPart]
        assert.isAtMost(told.attempts, most.attempts, where)
        for (const [i, { attempts }] of most.targets.entries()) assert.isAtMost(told.attemptsOf[i]!, attempts, where)
        assert.isAtMost(told.took, longest + TICK, where)
      }
    }
    assert.isAbove(attempts, 10 * RUNS)
  })
})

describe("attempts are reached", () => {
  /** Fails as early as the purse pays for the next attempt: so many times at each target. */
  const failing = (plan: Plan, shares: ReadonlyArray<number>) => {
    const made = ids.map(() => 0)
    const purses = ids.map(() => purseOf(plan))
    return (target: number, now: number): Fate => {
      const isLast = (made[target]! += 1) >= shares[target]!
      return isLast ? { after: 0, error: quota } : { after: purses[target]!(now) - now, error: unsent }
    }
  }
  /** The same number at each, the rest at the last ones; where there are fewer than targets, at the first ones. */
  const shared = (attempts: number, targets: number): ReadonlyArray<number> =>
    Array.from({ length: targets }, (_, i) => {
      const [each, rest] = [Math.floor(attempts / targets), attempts % targets]
      return each === 0 ? 1 : each + (i >= targets - rest ? 1 : 0)
    })

  it("over all targets, and at each", () => {
    let several = 0
    for (const seed of seeds) {
      const plan = { ...planOf(seed), hedge: false as const }
      const count = plan.targets.length
      const worldWith = (shares: ReadonlyArray<number>): World =>
        worldOf(plan, { asked: failing(plan, shares), draw: () => 0 })
      const said = explain(worldWith([]))
      const where = `seed ${seed}: ${JSON.stringify(plan)}`
      // A stream's attempts may be too short for the purse to fill.
      const most = (shares: ReadonlyArray<number>, targets?: ReadonlyArray<string>): number =>
        Math.max(...kinds.map((kind) => one(worldWith(shares), kind, { targets }).attempts))
      if (plan.failover !== false) {
        assert.strictEqual(most(shared(said.attempts, count)), said.attempts, where)
        if (count > 1 && said.attempts > count) several += 1
      }
      for (const [i, { attempts }] of said.targets.entries()) {
        assert.strictEqual(most(ids.map(() => attempts), [ids[i]!]), attempts, where)
      }
    }
    assert.isAbove(several, RUNS / 5)
  })
})

describe("hedges", () => {
  /** A target's first attempt lasts until all hedges have begun, which fail at once; then come its retries. */
  const script = (
    plan: Plan,
    order: ReadonlyArray<number>,
    hedged: (at: number) => boolean,
    world: () => World
  ): Script => {
    const { delay, maxHedges } = plan.hedge === false ? { delay: 0, maxHedges: 0 } : plan.hedge
    const retries = plan.retry === false ? 0 : plan.retry.maxRetries
    const away = (at: number, mode: "open" | "auto"): void => {
      if (plan.circuits && at < order.length) Effect.runSync(world().circuits[order[at]!]!.force(mode))
    }
    for (let at = 1; at < order.length; at++) away(at, "open")
    const made = ids.map(() => 0)
    return {
      draw: () => 0,
      asked: (target, now) => {
        const at = order.indexOf(target)
        const hedges = hedged(at) ? maxHedges : 0
        const k = made[target]! += 1
        if (k > 1 && k <= 1 + hedges) return { after: 0, error: unsent }
        // The own line: it goes on when the hedges have begun, and its last attempt lets the call go on to the next target.
        const after = k === 1 && hedges > 0 ? maxHedges * delay + 1 : 0
        if (k < 1 + hedges + retries && !(k === 1 && retries === 0)) return { after, error: unsent }
        if (after === 0) away(at + 1, "auto")
        else world().time.at(now + after, () => away(at + 1, "auto"))
        return { after, error: quota }
      }
    }
  }

  it("are as many as are said, on targets that are alone and on those that are not", () => {
    for (const seed of seeds.slice(0, 150)) {
      const { from, is, of } = dice(seed)
      const circuits = is(0.6)
      const plan: Plan = {
        ...planOf(seed),
        targets: Array.from({ length: from(1, 3) }, () => ({ bulkhead: undefined, limits: undefined })),
        bucket: undefined,
        timeout: { attempt: 1000, firstToken: undefined, deadline: of([Infinity, 60_000]) },
        // A turn without a hedge is over before one is due.
        retry: { maxRetries: from(0, 3), baseDelay: 0, factor: 1, maxDelay: 10, jitter: "none", maxRetryAfter: 0 },
        budget: false,
        failover: { maxRetryAfter: 0, coolDown: 0, maxAttempts: undefined },
        circuits,
        hedge: { delay: from(1, 200), maxHedges: from(1, 3) },
        shedding: false
      }
      const order = [...plan.targets.keys()]
      let own: Script | undefined
      const world: World = worldOf(plan, { asked: (target, now) => own!.asked(target, now), draw: () => 0 })
      // With nothing that keeps later targets away, a hedge would take the turn of one: only the last turn has hedges.
      own = script(plan, order, (at) => circuits || at === order.length - 1, () => world)
      const said = explain(world)
      assert.strictEqual(one(world, "complete").attempts, said.attempts, `seed ${seed}: ${JSON.stringify(plan)}`)
    }
  })

  it("and a call takes as long as the last of them", () => {
    for (const seed of seeds.slice(0, 100)) {
      const { from, of } = dice(seed)
      const plan: Plan = {
        ...planOf(seed),
        targets: [{ bulkhead: undefined, limits: undefined }],
        bucket: undefined,
        timeout: { attempt: of([50, 300]), firstToken: undefined, deadline: of([Infinity, 400]) },
        retry: { maxRetries: from(0, 2), baseDelay: 10, factor: 1, maxDelay: 10, jitter: "none", maxRetryAfter: 0 },
        budget: false,
        failover: { maxRetryAfter: 0, coolDown: 0, maxAttempts: undefined },
        circuits: false,
        hedge: { delay: from(1, 250), maxHedges: from(1, 3) },
        shedding: false
      }
      const limit = limitOf(plan, "complete")
      const world = worldOf(plan, { asked: () => ({ after: limit, error: unsent }), draw: () => 0 })
      const { waits } = explain(world)
      const told = one(world, "complete")
      assert.strictEqual(told.took, waits.complete, `seed ${seed}: ${JSON.stringify(plan)}`)
    }
  })
})

it("a hedge waits in the line of the target that it goes to, and that one may have its turn all the same", () => {
  const line = { queue: 5, maxWait: 2000, maxConcurrent: 1 }
  const plan: Plan = {
    ...planOf(1),
    targets: [{ bulkhead: undefined, limits: undefined }, { bulkhead: line, limits: undefined }],
    bucket: undefined,
    timeout: { attempt: 10, firstToken: undefined, deadline: Infinity },
    retry: false,
    budget: false,
    failover: { maxRetryAfter: 0, coolDown: 0, maxAttempts: undefined },
    circuits: false,
    hedge: { delay: 9, maxHedges: 1 },
    shedding: false
  }
  const world = worldOf(plan, {
    asked: () => ({ after: 10, error: limited() }),
    // The hedge finds the bulkhead full for longer than it waits, and then the call waits there in its own turn.
    arrived: (_door, _target, now) => now < 100 ? 3999 : 0,
    draw: () => 0
  })
  const { attempts, waits } = explain(world)
  const told = one(world, "complete")
  assert.strictEqual(waits.complete, 9 + 2010 + 2019)
  assert.isAtMost(told.attempts, attempts)
  assert.isAtMost(told.took, waits.complete)
  assert.isAbove(told.took, 2009 + 2000)
})

describe("a bound on attempts", () => {
  /** What a target does in its turn: so many attempts, and then a retry that is refused, or none. */
  type Part = { readonly made: number; readonly refused: boolean }

  it("bounds the wait, too", () => {
    for (const seed of seeds.slice(0, 150)) {
      const { from, is } = dice(seed)
      const [count, retries, most] = [from(1, 3), from(0, 3), from(1, 6)]
      const circuits = is(0.7)
      const plan: Plan = {
        ...planOf(seed),
        targets: Array.from({ length: count }, () => ({ bulkhead: undefined, limits: undefined })),
        bucket: undefined,
        timeout: { attempt: 100, firstToken: undefined, deadline: Infinity },
        retry: { maxRetries: retries, baseDelay: 10, factor: 2, maxDelay: 1000, jitter: "none", maxRetryAfter: 0 },
        budget: false,
        failover: { maxRetryAfter: 0, coolDown: 0, maxAttempts: most },
        circuits,
        hedge: false,
        shedding: false
      }
      // Every way to spend the attempts.
      const ways = (left: number, targets: number): ReadonlyArray<ReadonlyArray<Part>> =>
        targets === 0 ?
          [[]] :
          Array.from({ length: Math.min(left, retries + 1) }, (_, i) => i + 1).flatMap((made) =>
            [false, ...(circuits && made <= retries && made < left ? [true] : [])].flatMap((refused) =>
              (left > made ? ways(left - made, targets - 1) : [[]]).map((
                rest
              ): ReadonlyArray<Part> => [{ made, refused }].concat(rest))
            )
          )
      const pause = (k: number): number => 10 * 2 ** (k - 1)
      const time = (way: ReadonlyArray<Part>): number =>
        way.reduce((sum, { made, refused }) => {
          const pauses = Array.from({ length: refused ? made : made - 1 }, (_, i) => pause(i + 1))
          return sum + made * 100 + pauses.reduce((a, b) => a + b, 0)
        }, 0)
      const [longest] = ways(most, count).toSorted((a, b) => time(b) - time(a))
      const made = ids.map(() => 0)
      let own: World | undefined
      const world = own = worldOf(plan, {
        draw: () => 0,
        asked: (target, now) => {
          const k = made[target]! += 1
          const part = longest![target]!
          if (k < part.made || part.refused) {
            if (k === part.made) own!.time.at(now + 101, () => Effect.runSync(own!.circuits[target]!.force("open")))
            return { after: 100, error: limited() }
          }
          return { after: 100, error: quota }
        }
      })
      const where = `seed ${seed}: ${JSON.stringify(plan)} ${JSON.stringify(longest)}`
      const { attempts, waits } = explain(world)
      assert.strictEqual(attempts, Math.min(most, count * (retries + 1)), where)
      assert.strictEqual(waits.complete, time(longest!), where)
      assert.strictEqual(one(world, "complete").took, waits.complete, where)
    }
  })
})

describe("waits are reached", () => {
  /** One attempt of a plan: when it comes to its lines at the earliest and at the latest, and what led to it. */
  interface Step {
    readonly target: number
    readonly k: number
    readonly from: number
    readonly to: number
    readonly before: Step | undefined
  }

  /** What an attempt is to meet. */
  interface Act {
    readonly lines: number
    readonly asked: number
    /** The pause after it; without one the call goes to the next target. */
    readonly pause: number | undefined
  }

  const lineOf = (plan: Plan, target: number, door: Door): number => {
    const line = door === "bucket" ? plan.bucket : plan.targets[target]![door]
    return line === undefined || line.queue === 0 ? 0 : line.maxWait
  }
  const doors = ["bulkhead", "bucket", "limits"] as const
  const linesOf = (plan: Plan, target: number): number =>
    doors.reduce((sum, door) => sum + lineOf(plan, target, door), 0)

  /** The range of our own delay before retry `k`. */
  const backoff = ({ retry }: Plan, k: number): readonly [least: number, most: number] => {
    if (retry === false) return [0, 0]
    const ceiling = Math.min(retry.maxDelay, retry.baseDelay * retry.factor ** (k - 1))
    return [retry.jitter === "none" ? ceiling : retry.jitter === "full" ? 0 : Math.ceil(ceiling / 2), ceiling]
  }
  const hintOf = ({ circuits, failover, retry }: Plan, isLast: boolean): number =>
    retry === false ? 0 : isLast || circuits || failover === false
      ? retry.maxRetryAfter
      : Math.min(retry.maxRetryAfter, failover.maxRetryAfter)
  const pauseOf = (plan: Plan, k: number, hint: number): readonly [least: number, most: number] => {
    const [least, most] = backoff(plan, k)
    return [least, hint === 0 ? most : Math.max(most, Math.ceil(hint + Math.min(1000, hint / 10)))]
  }

  /** The steps that end latest: in an attempt that hangs when the deadline is over, or when everything took its longest. */
  const latest = (plan: Plan, kind: Kind, order: ReadonlyArray<number>) => {
    const [deadline, limit] = [deadlineOf(plan), limitOf(plan, kind)]
    const { budget, retry } = plan
    const retries = retry === false ? 0 : budget === false || budget.capacity < 1
      ? budget === false ? retry.maxRetries : 0
      : Math.min(retry.maxRetries, budget.perAttempt > 0 ? Infinity : Math.floor(budget.capacity))
    let best: { readonly end: number; readonly step: Step } | undefined
    const go = (at: number, from: number, to: number, before: Step | undefined): void => {
      const target = order[at]
      if (target === undefined || from >= deadline) return
      const longest = linesOf(plan, target) + limit
      const hint = hintOf(plan, at === order.length - 1)
      for (let k = 1, step: Step = { target, k, from, to, before };; k++) {
        const end = Math.min(step.to + longest, deadline)
        if (best === undefined || end > best.end) best = { end, step }
        go(at + 1, step.from, Math.min(end, deadline - 1), step)
        const [least, most] = pauseOf(plan, k, hint)
        if (k > retries || step.from + least >= deadline) return
        const next = { from: step.from + least, to: Math.min(step.to + longest + most, deadline - 1) }
        step = { target, k: k + 1, ...next, before: step }
      }
    }
    go(0, 0, 0, undefined)
    return best!
  }

  /** What each attempt has to meet, so that the last one begins as late as planned. */
  const actsOf = (plan: Plan, kind: Kind, order: ReadonlyArray<number>): ReadonlyMap<string, Act> => {
    const limit = limitOf(plan, kind)
    const acts = new Map<string, Act>()
    const { end, step: last } = latest(plan, kind, order)
    const act = (step: Step, time: number, pause: number | undefined): void => {
      const asked = Math.min(limit, time)
      acts.set(`${step.target} ${step.k}`, { asked, lines: time - asked, pause })
    }
    let [step, start] = [last, Math.min(last.to, deadlineOf(plan) - 1)]
    act(last, end - start, undefined)
    for (let before = step.before; before !== undefined; before = step.before) {
      const isRetry = before.target === step.target
      const [least, most] = isRetry
        ? pauseOf(plan, before.k, hintOf(plan, order.at(-1) === before.target))
        : [0, 0]
      const at = Math.min(before.to, start - least)
      const gap = start - at
      const pause = Math.min(most, Math.max(least, gap - linesOf(plan, before.target) - limit))
      act(before, gap - pause, isRetry ? pause : undefined)
      ;[step, start] = [before, at]
    }
    return acts
  }

  const scriptOf = (plan: Plan, kind: Kind, order: ReadonlyArray<number>, world: () => World): Script => {
    const acts = actsOf(plan, kind, order)
    const made = ids.map(() => 0)
    const deadline = world().time.now() + deadlineOf(plan)
    let at = 0
    let u = 0
    const away = (target: number | undefined, mode: "open" | "auto"): void => {
      if (target !== undefined && plan.circuits) Effect.runSync(world().circuits[target]!.force(mode))
    }
    for (const later of order.slice(1)) away(later, "open")

    /** Makes the next pause as long as planned: by a hint, or else by the dice. */
    const pausing = (target: number, k: number, millis: number): Fate["error"] => {
      const hint = hintOf(plan, order.at(-1) === target)
      const [least, most] = backoff(plan, k)
      u = 0
      if (millis <= least) return limited()
      if (millis <= hint) return limited(millis)
      const isOurs = millis <= most
      const [from, range] = isOurs
        ? [least, most - (plan.retry !== false && plan.retry.jitter === "equal" ? most / 2 : 0)]
        : [hint, Math.min(1000, hint / 10)]
      u = Math.min(0.9999999, (millis - (isOurs ? most - range : from)) / range - 1e-9)
      return limited(isOurs ? undefined : hint)
    }
    let left: number | undefined
    return {
      draw: () => u,
      arrived: (door, _, now) => {
        const target = order[at]!
        const act = acts.get(`${target} ${made[target]! + 1}`)
        if (act === undefined) return 0
        left ??= act.lines
        const millis = Math.min(left, lineOf(plan, target, door))
        left -= millis
        // In a bulkhead's line one waits until the deadline; who would wait as long for tokens is refused at once.
        return now + millis >= deadline ? door === "bulkhead" ? millis + 1 : Math.max(0, deadline - TICK - now) : millis
      },
      asked: (target, now) => {
        left = undefined
        const k = made[target]! += 1
        const act = acts.get(`${target} ${k}`)
        if (act === undefined || now + act.asked >= deadline) return hang
        if (act.pause !== undefined) return { after: act.asked, error: pausing(target, k, act.pause) }
        at += 1
        away(order[at], "auto")
        return { after: act.asked, error: quota }
      }
    }
  }

  const permutations = (all: ReadonlyArray<number>): ReadonlyArray<ReadonlyArray<number>> =>
    all.length < 2
      ? [all]
      : all.flatMap((first) => permutations(all.filter((i) => i !== first)).map((rest) => [first].concat(rest)))

  it("by vendors, lines and dice that do their worst", () => {
    let finite = 0
    for (const seed of seeds) {
      const drawn = planOf(seed)
      const plan: Plan = {
        ...drawn,
        hedge: false,
        shedding: false,
        budget: drawn.budget === false || drawn.budget.perAttempt > 0
          ? drawn.budget
          : { ...drawn.budget, perSecond: 0 },
        failover: drawn.failover === false ? false : { ...drawn.failover, maxAttempts: undefined },
        // A target has all of the deadline where all others are away.
        timeout: drawn.timeout === false || drawn.circuits ? drawn.timeout : { ...drawn.timeout, deadline: Infinity }
      }
      const run = (kind: Kind, order: ReadonlyArray<number>) => {
        let script: Script | undefined
        const world: World = worldOf(plan, {
          asked: (target, now) => script!.asked(target, now),
          draw: () => script?.draw() ?? 0,
          arrived: (door, target, now) => script!.arrived!(door, target, now)
        })
        script = scriptOf(plan, kind, order, () => world)
        const told = one(world, kind, { cache: "never", targets: order.map((i) => ids[i]!) })
        const steps = told.ledger.map(({ _tag, at }) => `${at} ${_tag}`).join(", ")
        return { took: told.took, where: `seed ${seed}, ${kind} ${order.join()}: ${JSON.stringify(plan)} ${steps}` }
      }
      const said = explain(worldOf(plan, { asked: () => hang, draw: () => 0 }))
      const reached = (kind: Kind, most: number, orders: ReadonlyArray<ReadonlyArray<number>>): void => {
        if (most === Infinity) return
        finite += 1
        const [longest] = orders.map((order) => run(kind, order)).toSorted((a, b) => b.took - a.took)
        assert.approximately(longest!.took, most, TICK, longest!.where)
      }
      const all = [...plan.targets.keys()]
      for (const alone of all) reached("complete", said.targets[alone]!.wait, [[alone]])
      // Where nothing keeps a target away, it matters which is asked first.
      const orders = plan.failover === false ? all.map((i) => [i]) : permutations(all)
      reached("complete", said.waits.complete, orders)
      reached("stream", said.waits.firstPart, orders)
    }
    assert.isAbove(finite, 2 * RUNS)
  })
})

describe("what begins before and goes on after", () => {
  it("a call that joins another one waits in its own time for what that one would not have begun", () => {
    const plan: Plan = {
      ...planOf(1),
      targets: [{ bulkhead: undefined, limits: undefined }],
      bucket: undefined,
      timeout: { attempt: 100, firstToken: undefined, deadline: 790 },
      retry: { maxRetries: 2, baseDelay: 400, factor: 1, maxDelay: 400, jitter: "none", maxRetryAfter: 0 },
      budget: false,
      failover: false,
      circuits: false,
      hedge: false,
      shedding: false
    }
    let made = 0
    const world = worldOf(plan, {
      asked: () => ++made < 3 ? { after: 100, error: limited() } : hang,
      draw: () => 0
    })
    const { waits } = explain(world)
    // The third attempt would begin at 1000 at the latest, and at 800 at the earliest.
    assert.deepStrictEqual([waits.complete, waits.joined], [600, 790])
    const took: Array<number> = []
    for (const at of [0, 300]) {
      call(world, "complete", at, { idempotencyKey: "same", cache: "never" }, (told) => took.push(told.took))
    }
    world.time.run()
    assert.deepStrictEqual(took, [790, 790])
  })

  const streamed = (step: ScriptedProvider.Step, timeout: { readonly idle: number; readonly deadline: number }) =>
    VirtualTime.run(Effect.scoped(Effect.gen(function*() {
      const provider = yield* ScriptedProvider.make([step], { id: "p" })
      const options = { timeout } as const
      const { waits } = yield* LlmConfig.explain([provider], options)
      const client = Context.get(yield* Layer.build(LlmClient.layerDynamic([provider], options)), LlmClient)
      const arrivals: Array<number> = []
      const error = yield* Effect.flip(
        Stream.runForEach(
          client.stream("Hi"),
          (part) => Effect.map(now, (at) => part.type === "text-delta" ? arrivals.push(at) : undefined)
        )
      )
      return { waits, arrivals, error: error._tag, endedAt: yield* now }
    })))

  it.effect("a stream that falls silent ends when its reader has waited long enough", () =>
    Effect.gen(function*() {
      const step = ScriptedProvider.stream("a", { wait: 299 }, "b", ScriptedProvider.stall)
      const { arrivals, endedAt, error, waits } = yield* streamed(step, { idle: 300, deadline: 5000 })
      assert.strictEqual(error, "StreamInterrupted")
      assert.strictEqual(endedAt - arrivals.at(-1)!, waits.silence)
    }))

  it.effect("a stream that never ends does so at the deadline", () =>
    Effect.gen(function*() {
      const drops = Array.from({ length: 20 }, () => [{ wait: 290 }, "a"] as const).flat()
      const { endedAt, error, waits } = yield* streamed(ScriptedProvider.stream("a", ...drops), {
        idle: 300,
        deadline: 5000
      })
      assert.strictEqual(error, "DeadlineExceeded")
      assert.strictEqual(endedAt, waits.stream)
    }))
})

describe("shared stores", () => {
  /** A call whose stores take so long for each thing that they are asked. */
  const slowed = (
    millis: (operation: string) => number,
    options: LlmConfig.Options,
    input: Partial<LlmRequest.Input>
  ) =>
    VirtualTime.run(Effect.scoped(Effect.gen(function*() {
      const memory = yield* Store.memory<string>({ maxEntries: 10 })
      const after = <A, E>(operation: string, self: Effect.Effect<A, E>) => Effect.delay(self, millis(operation))
      const store: typeof memory = {
        ...memory,
        get: (key) => after("get", memory.get(key)),
        acquire: (key, lease, options) => after("acquire", memory.acquire(key, lease, options)),
        complete: (key, fence, value, options) => after("complete", memory.complete(key, fence, value, options))
      }
      const provider = yield* ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.overloaded)], { id: "p" })
      const answering = yield* ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.answer("yes"))], {
        id: "p"
      })
      const target = input.idempotencyKey === undefined ? provider : answering
      const all = { retry: false, rateLimit: false, ...options } as const
      return yield* Effect.gen(function*() {
        const { waits } = yield* LlmConfig.explain([target], all)
        const client = Context.get(yield* Layer.build(LlmClient.layerDynamic([target], all)), LlmClient)
        const begun = yield* now
        yield* Effect.exit(client.complete({ prompt: "Hi", ...input }))
        return { said: waits.stores, took: (yield* now) - begun }
      }).pipe(
        Effect.provideService(
          options.cache === false ? Idempotency.IdempotencyStore : ResponseCache.ResponseCacheStore,
          store
        )
      )
    })))

  it.effect("add what is said at most, and no more", () =>
    Effect.gen(function*() {
      // Looked up in time, and then written for as long as is left.
      const keyed = yield* slowed((operation) => operation === "acquire" ? 99 : 1000, { cache: false }, {
        idempotencyKey: "1"
      })
      assert.deepStrictEqual(keyed, { said: 150, took: 150 })
      const fresh = yield* slowed(() => 99, { cache: { readThrough: true }, idempotency: false }, { cache: "always" })
      assert.deepStrictEqual(fresh, { said: 150, took: 150 })
      const stale = yield* slowed(() => 1000, { cache: {}, idempotency: false }, {})
      assert.deepStrictEqual(stale, { said: 150, took: 100 })
    }))
})
