// The bounds of small configurations, worked out by hand. `bounds.model.test.ts` holds them against real clients.
import { assert, describe, it } from "@effect/vitest"
import { Schedule } from "effect"
import { LlmConfig } from "effect-resilient-llm"
import { type Bounds, boundsOf } from "../../src/pipeline/bounds.ts"
import type { TargetOptions } from "../../src/pipeline/target.ts"

/** An attempt takes 100 ms at most, one of a stream 40; the pauses before retries are 10 and 20. Nothing else is on. */
const usual = {
  timeout: { attempt: 100, firstToken: 40, deadline: false },
  retry: { maxRetries: 2, baseDelay: 10, factor: 2, maxDelay: 60_000, jitter: "none", maxRetryAfter: 0 },
  retryBudget: false,
  failover: { coolDown: 0, maxRetryAfter: 0 },
  circuitBreaker: false,
  rateLimit: false,
  cache: false
} as const satisfies LlmConfig.Options

const retries = (maxRetries: number, baseDelay = 10) => ({ ...usual.retry, maxRetries, baseDelay, factor: 1 } as const)
const within = (deadline: number) => ({ ...usual.timeout, deadline })
const line = (maxWait: number): TargetOptions => ({ bulkhead: { maxWait, queue: 1 } })
const once = { retry: false } as const

type Row = readonly [
  name: string,
  targets: ReadonlyArray<TargetOptions>,
  options: LlmConfig.Options,
  expected: Partial<Bounds>
]

const hold = (list: ReadonlyArray<Row>): void =>
  it.each(list)("%s", (_, targets, options, expected) => {
    const all = targets.map((target, i) => ({ ...target, id: `target-${i}` }))
    const bounds: Bounds = boundsOf(LlmConfig.settings(all, { ...usual, ...options }), false)
    const found = Object.fromEntries(Object.entries(bounds).filter(([name]) => name in expected))
    assert.deepStrictEqual<object>(found, expected)
  })

const one = [{}]
const two = [{}, {}]
const three = [{}, {}, {}]

describe("one target", () => {
  hold([
    ["with nothing on", one, { timeout: false, retry: false, failover: false }, {
      attempts: 1,
      attemptsOf: [1],
      complete: Infinity,
      completeOf: [Infinity],
      firstPart: Infinity,
      joined: Infinity,
      lineOf: [0]
    }],
    ["one attempt", one, once, {
      attempts: 1,
      attemptsOf: [1],
      complete: 100,
      completeOf: [100],
      firstPart: 40,
      joined: 100,
      lineOf: [0]
    }],
    ["a first token that may come later than its attempt", one, {
      ...once,
      timeout: { attempt: 100, firstToken: 500, deadline: false }
    }, { complete: 100, firstPart: 100 }],
    ["a deadline below the attempt", one, { ...once, timeout: within(30) }, {
      complete: 30,
      completeOf: [30],
      firstPart: 30,
      joined: 30
    }],
    ["attempts and the pauses between them", one, {}, { attempts: 3, complete: 330, firstPart: 150, joined: 330 }],
    ["a deadline that one of both waits reaches", one, { timeout: within(200) }, {
      attempts: 3,
      complete: 200,
      completeOf: [200],
      firstPart: 150,
      joined: 200
    }],
    ["a retry that would come at the deadline does not", one, { timeout: within(30) }, {
      attempts: 2,
      attemptsOf: [2],
      complete: 30
    }],
    ["one that comes before it does", one, { timeout: within(31) }, { attempts: 3, attemptsOf: [3], complete: 31 }],
    // From 0 to 100 there is an attempt, and the next one may begin at 1000.
    ["a pause that ends at the deadline is not waited for", one, { retry: retries(1, 1000), timeout: within(1000) }, {
      attempts: 1,
      complete: 100
    }],
    ["one that ends before it is", one, { retry: retries(1, 1000), timeout: within(1001) }, {
      attempts: 2,
      complete: 1001
    }],
    ["what a vendor asks to be waited for, and a tenth", one, { retry: { ...usual.retry, maxRetryAfter: 50 } }, {
      attempts: 3,
      complete: 3 * 100 + 2 * 55
    }],
    ["a schedule of one's own", one, { retry: { maxRetries: 2, schedule: Schedule.spaced(10) } }, {
      attempts: 3,
      complete: Infinity
    }],
    ["waits in lines before each attempt", [line(7)], {}, { lineOf: [7], complete: 3 * 107 + 30, firstPart: 171 }],
    ["a bound on attempts", one, { failover: { ...usual.failover, maxAttempts: 2 } }, {
      attempts: 2,
      attemptsOf: [2],
      complete: 210,
      completeOf: [210]
    }],
    ["more retries than are told apart", one, { retry: retries(300, 1) }, {
      attempts: 301,
      complete: 301 * 100 + 300,
      firstPart: 301 * 40 + 300
    }],
    ["those beyond, of which the first comes at the deadline", one, {
      retry: retries(300, 1),
      timeout: within(200)
    }, { attempts: 200, complete: 200 }],
    ["those beyond, of which one comes before it", one, { retry: retries(300, 1), timeout: within(201) }, {
      attempts: 301,
      complete: 201
    }],
    ["those beyond, whose pauses are those of the last one", one, {
      retry: { ...usual.retry, maxRetries: 300, baseDelay: 1, maxDelay: 5 }
    }, { complete: 301 * 100 + 1 + 2 + 4 + 297 * 5 }],
    ["those beyond, and a deadline that they do not reach", one, {
      retry: retries(300, 1),
      timeout: within(40_000)
    }, { attempts: 301, complete: 301 * 100 + 300 }]
  ])

  it("with guards of a user's own, which may wait as long as they like", () => {
    const bounds = (timeout: LlmConfig.Options["timeout"]) =>
      boundsOf(LlmConfig.settings([{ id: "p" }], { ...usual, timeout }), true)
    assert.deepStrictEqual(bounds(usual.timeout), {
      attempts: 3,
      attemptsOf: [3],
      complete: Infinity,
      completeOf: [Infinity],
      firstPart: Infinity,
      joined: Infinity,
      lineOf: [Infinity]
    })
    assert.deepStrictEqual(bounds(within(500)), {
      attempts: 3,
      attemptsOf: [3],
      complete: 500,
      completeOf: [500],
      firstPart: 500,
      joined: 500,
      lineOf: [Infinity]
    })
  })
})

describe("a purse", () => {
  const purse = { capacity: 1, perAttempt: 0, perSecond: 20 }
  hold([
    ["that holds no token pays for nothing", one, { retryBudget: { capacity: 0.9 } }, { attempts: 1, complete: 100 }],
    ["without income pays for what is in it", one, { retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 } }, {
      attempts: 2,
      complete: 210
    }],
    ["with income pays again when it is full", one, { retryBudget: purse }, { attempts: 3, complete: 330 }],
    // The first retry costs 10 ms; the token of the second one is there after 50 ms, and its pause is 20.
    ["whose second token and pause end at the deadline", one, { retryBudget: purse, timeout: within(70) }, {
      attempts: 2
    }],
    ["whose second token and pause end before it", one, { retryBudget: purse, timeout: within(71) }, { attempts: 3 }],
    // Two attempts end at 130. The second token is there at 50, and its pause of 200 ends at the deadline.
    ["keeps a retry waiting until the deadline", one, {
      retryBudget: purse,
      retry: { ...usual.retry, factor: 20 },
      timeout: { attempt: 60, deadline: 250 }
    }, { attempts: 2, complete: 130 }]
  ])
})

describe("several targets", () => {
  hold([
    ["without failover: the worst of them", [{}, line(7)], { failover: false }, {
      attempts: 3,
      attemptsOf: [3, 3],
      complete: 351,
      completeOf: [330, 351],
      firstPart: 171,
      joined: 351,
      lineOf: [0, 7]
    }],
    ["with failover: one after the other", [{}, line(7)], {}, {
      attempts: 6,
      attemptsOf: [3, 3],
      complete: 330 + 351,
      completeOf: [330, 351],
      firstPart: 150 + 171,
      joined: 681,
      lineOf: [0, 7]
    }],
    ["within a deadline, which bounds work that is joined by time alone", two, { timeout: within(500) }, {
      attempts: 6,
      complete: 500,
      completeOf: [330, 330],
      firstPart: 300,
      joined: 500
    }],
    ["the cheapest retries come first", [{}, {}, {}], { timeout: within(31) }, { attempts: 6, attemptsOf: [3, 3, 3] }],
    ["hints are waited for less long while another target can be asked", two, {
      retry: { ...usual.retry, maxRetryAfter: 50 },
      failover: { coolDown: 0, maxRetryAfter: 20 }
    }, { complete: 300 + 2 * 22 + 300 + 2 * 55, completeOf: [410, 410] }],
    ["and as long if that one may rest", two, {
      retry: { ...usual.retry, maxRetryAfter: 50 },
      failover: { coolDown: 1, maxRetryAfter: 20 }
    }, { complete: 820 }],
    // The first target is asked from 0 to 100, and would be again at 1000; so would the second one, from 100 to 200.
    ["pauses that end at the deadline are not waited for", two, { retry: retries(1, 1000), timeout: within(1000) }, {
      attempts: 2,
      complete: 200
    }],
    // From 1000 to 1100 and, after the second target, to 1200 the first one is asked again; the second one until 1300, and
    // would be again at 2000.
    ["what cannot begin before the deadline is not begun", two, { retry: retries(1, 1000), timeout: within(2000) }, {
      attempts: 3,
      complete: 1300
    }],
    ["what can begin before it goes on until then", two, { retry: retries(1, 1000), timeout: within(2001) }, {
      attempts: 4,
      complete: 2001
    }],
    // A turn ends after 1, 1002, 2503 or 4754 ms, before a retry that would begin after the deadline. The latest end is not
    // that of the longest turn and what still fits after it, but of three that are shorter.
    ["some shorter turns end later than a longer one", three, {
      retry: { ...usual.retry, maxRetries: 4, baseDelay: 1000, factor: 1.5 },
      timeout: { attempt: 1, deadline: 7952 }
    }, { complete: 3 * 2503, completeOf: [4754, 4754, 4754] }],
    // Each ends 1 ms after a whole second, and a target that has failed there passes its 1 ms on to the next one.
    ["two hundred moments are told apart", two, {
      retry: retries(200, 1000),
      timeout: { attempt: 1, deadline: 200_000 }
    }, { complete: 199 * 1001 + 2, completeOf: [199 * 1001 + 1, 199 * 1001 + 1] }],
    ["and more are not: the bound is higher than what can be reached", two, {
      retry: retries(200, 1000),
      timeout: { attempt: 1, deadline: 200_500 }
    }, { complete: 200_500, completeOf: [200 * 1001 + 1, 200 * 1001 + 1] }]
  ])
})

describe("hedges", () => {
  const hedge = (delay: number | "p95", maxHedges: number, minDelay = 500) => ({
    hedge: { delay, maxHedges, minDelay }
  })
  hold([
    // Due at 30 and 60; in a stream the second one is due while the first one is under way.
    ["during one attempt", one, { ...once, ...hedge(30, 2) }, { attempts: 3, complete: 160, firstPart: 100 }],
    ["due when the attempt is over", one, { ...once, ...hedge(100, 2) }, { attempts: 1, complete: 100 }],
    ["due just before", one, { ...once, ...hedge(99, 2) }, { attempts: 3, complete: 2 * 99 + 100 }],
    ["never, of attempts without a limit", one, { ...once, ...hedge(Infinity, 3), timeout: false }, {
      attempts: 1,
      complete: Infinity
    }],
    ["of two targets without limits", two, { ...once, ...hedge(30, 1), timeout: false }, {
      attempts: 3,
      complete: Infinity
    }],
    ["during several retries", one, { retry: retries(2), ...hedge(100, 5) }, { attempts: 6, complete: 400 }],
    ["each during the one before, which is in a line", [{}, line(7)], { ...once, ...hedge(105, 3) }, { attempts: 5 }],
    ["at once", one, { ...once, ...hedge(0, 3) }, { attempts: 4, complete: 100 }],
    ["never", one, { ...once, ...hedge(Infinity, 3) }, { attempts: 1, complete: 100 }],
    // The line itself ends at 210. Hedges that are due at 100 and 200 fail before the next one would be due.
    ["during retries", one, { retry: retries(1), ...hedge(100, 5) }, { attempts: 4, complete: 300, firstPart: 90 }],
    ["each during the one before", one, { retry: retries(1), ...hedge(99, 5) }, { attempts: 7, complete: 595 }],
    ["before the deadline", one, { retry: retries(1), ...hedge(99, 5), timeout: within(250) }, {
      attempts: 4,
      complete: 250
    }],
    ["of which one is due at the deadline", one, { ...once, ...hedge(30, 5), timeout: within(120) }, {
      attempts: 4,
      complete: 120
    }],
    ["whose line the deadline ends", one, { retry: retries(1), ...hedge(99, 1), timeout: within(210) }, {
      attempts: 3,
      complete: 210
    }],
    ["of two targets, where none can be away: in the last turn", two, { ...once, ...hedge(30, 1) }, {
      attempts: 3,
      attemptsOf: [2, 2],
      // Each may be the one that has them, as far as is known.
      complete: 2 * (30 + 100)
    }],
    ["of two targets that may rest: in each turn", two, {
      ...once,
      ...hedge(30, 1),
      failover: { coolDown: 1, maxRetryAfter: 0 }
    }, { attempts: 4 }],
    ["of two targets with circuits: in each turn", two, { ...once, ...hedge(30, 1), circuitBreaker: {} }, {
      attempts: 4
    }],
    ["of two targets, one of them with a circuit", [{}, { circuitBreaker: {} }], { ...once, ...hedge(30, 1) }, {
      attempts: 4
    }],
    ["of two targets without failover", two, { ...once, ...hedge(30, 1), failover: false, circuitBreaker: {} }, {
      attempts: 2,
      complete: 130
    }],
    // The attempt of the second target is over after 107, of which 7 are in its line.
    ["that only one of two targets is slow enough for", [{}, line(7)], { ...once, ...hedge(105, 1) }, {
      attempts: 3,
      attemptsOf: [1, 2],
      complete: 100 + 105 + 107,
      completeOf: [100, 105 + 107]
    }],
    ["that only one of two targets is slow enough for, without failover", [{}, line(7)], {
      ...once,
      ...hedge(105, 1),
      failover: false
    }, { attempts: 2, attemptsOf: [1, 2] }],
    // The first target hedges after 90, and the hedge waits in the line of the second one: until 90 + 107.
    ["that wait in another target's line", [{}, line(7)], { ...once, ...hedge(90, 1) }, {
      complete: 90 + 107 + 90 + 107,
      completeOf: [190, 197]
    }],
    ["that wait in the line of one of three targets", [{}, line(7), {}], { ...once, ...hedge(90, 1) }, {
      complete: 3 * (90 + 107)
    }],
    // Hints are waited for at the last target only. That is the second one: first 105 + 80 with a line of 50, and then
    // 105 + 30, as its hedge can go nowhere else.
    ["that go to no target which was asked before", [line(50), {}], {
      retry: { ...retries(1), maxRetryAfter: 50 },
      timeout: { attempt: 30, deadline: false },
      ...hedge(105, 1)
    }, { complete: 185 + 135 }],
    ["are not held back by a bound on attempts in time", two, {
      ...once,
      ...hedge(30, 1),
      failover: { ...usual.failover, maxAttempts: 1 }
    }, { attempts: 1, complete: 260 }]
  ])

  describe("as slow as usual", () => {
    hold([
      // Streams only: each is due when the one before it has failed.
      ["below the attempt", one, { ...once, ...hedge("p95", 2, 30) }, { attempts: 3, complete: 100, firstPart: 120 }],
      // The line ends at 90: due at 50, and the next one when all have failed.
      ["with a least delay above the attempt", one, { retry: retries(1), ...hedge("p95", 2, 50) }, {
        attempts: 3,
        complete: 210,
        firstPart: 130
      }],
      ["within a deadline", one, { retry: retries(1), ...hedge("p95", 2, 50), timeout: within(100) }, {
        complete: 100,
        firstPart: 100
      }],
      ["one that the deadline keeps from its end", one, { ...once, ...hedge("p95", 3, 30), timeout: within(110) }, {
        firstPart: 110
      }],
      ["more than are told apart", one, { ...once, ...hedge("p95", 250, 30) }, {
        attempts: 251,
        firstPart: 251 * 40
      }]
    ])
  })

  describe("are paid", () => {
    const tokens = (capacity: number, perAttempt: number, perSecond: number) => ({
      retry: retries(1),
      retryBudget: { capacity, perAttempt, perSecond },
      ...hedge(30, 5)
    })
    hold([
      ["not at all", one, tokens(0.9, 0, 0), { attempts: 1 }],
      ["not at all, whatever other calls bring", one, tokens(0.9, 0.2, 0), { attempts: 1 }],
      ["from a purse of one token", one, tokens(1, 0.2, 0), { attempts: 7 }],
      ["with what retries leave", one, tokens(2, 0, 0), { attempts: 3 }],
      ["with all there is, of each target", two, tokens(3, 0, 0), { attempts: 2 + 2 + 4 }],
      ["with what other calls bring", one, tokens(2, 0.2, 0), { attempts: 7 }],
      ["with what comes until the deadline", one, { ...tokens(2, 0, 2), timeout: within(500) }, { attempts: 4 }],
      ["with what comes for ever", one, tokens(2, 0, 2), { attempts: 7 }],
      ["with nothing, where retries may take more than comes", one, {
        ...tokens(1, 0, 1000),
        retry: retries(300, 1),
        timeout: within(205)
      }, { attempts: 301 }]
    ])
  })
})

describe("a bound on attempts bounds the wait", () => {
  const most = (maxAttempts: number) => ({ failover: { ...usual.failover, maxAttempts } })
  hold([
    // One at the first target and three at the second, or the other way round.
    ["four of six", two, most(4), { attempts: 4, attemptsOf: [3, 3], complete: 330 + 100 }],
    ["five of six", two, most(5), { attempts: 5, complete: 330 + 210 }],
    ["one", two, most(1), { attempts: 1, attemptsOf: [1, 1], complete: 100 }],
    ["both at one target", two, { retry: retries(1), ...most(2) }, { attempts: 2, complete: 100 + 10 + 100 }],
    ["one each at two of three", three, { ...once, ...most(2) }, { attempts: 2, complete: 200 }],
    ["all of them", two, most(6), { attempts: 6, complete: 660 }],
    ["more than there are", two, most(7), { attempts: 6, complete: 660 }],
    // A retry that its circuit refuses has waited for its pause, and is none.
    ["with what may refuse a retry after its pause", two, { ...most(4), circuitBreaker: {} }, {
      complete: 330 + 100 + 10
    }],
    // One is refused after its time in the line, the other one waits there and is made.
    ["with lines in which an attempt may be refused", [line(500), line(500)], { ...once, ...most(1) }, {
      complete: 500 + 600
    }],
    ["with attempts without a limit", two, { ...most(4), timeout: { attempt: false, deadline: false } }, {
      attempts: 4,
      complete: Infinity
    }],
    ["of two hundred", two, { retry: retries(99), ...most(199) }, { complete: 199 * 100 + 197 * 10 }],
    ["not of more", two, { retry: retries(100), ...most(199) }, { complete: 202 * 100 + 200 * 10 }],
    ["not of more retries than are told apart", one, { retry: retries(300), ...most(50) }, { complete: 33_100 }],
    ["with one that may be refused after its pause", [{ circuitBreaker: {} }, {}], most(4), { complete: 440 }],
    ["with a retry that is refused in a line", [line(500), {}], most(4), { complete: 600 + 10 + 600 + 20 + 500 + 210 }],
    // Two are made after 50 ms in the line, the third one is refused there; then three at one of the others.
    ["with a line at one of three", [{}, line(50), {}], most(5), { complete: 150 + 10 + 150 + 20 + 50 + 330 }],
    ["with a line without end", [line(Infinity), {}], { ...most(4), timeout: within(500) }, { complete: 500 }],
    ["with pauses without end", two, {
      ...most(4),
      retry: { maxRetries: 2, schedule: Schedule.spaced(10) },
      timeout: within(500)
    }, { complete: 500 }],
    ["with pauses without end, of one target", one, {
      ...most(3),
      retry: { maxRetries: 3, schedule: Schedule.spaced(10) },
      timeout: within(500)
    }, { complete: 500 }],
    ["not without failover", two, { failover: false }, { attempts: 3, complete: 330 }]
  ])
})
