// Scenarios to begin with.
import type { Arrivals, Scenario } from "../../Simulator.ts"

const usual = { kind: "poisson", perSecond: 5 } as const satisfies Arrivals
const second = { id: "second" } as const

const named = <K extends string>(
  all: Readonly<Record<K, Omit<Scenario, "name">>>
): Readonly<Record<K, Scenario>> =>
  Object.fromEntries(
    Object.entries<Omit<Scenario, "name">>(all).map(([name, scenario]) => [name, { name, ...scenario }])
  ) as Record<K, Scenario>

export const scenarios = named({
  overload: {
    about: "For ten minutes the first vendor refuses nine of ten calls with 503.",
    arrivals: usual,
    vendors: [
      { id: "first", phases: [{ kind: "overload", share: 0.9, from: "5 minutes", to: "15 minutes" }] },
      second
    ]
  },
  hang: {
    about: "For ten minutes the first vendor takes every call and says nothing.",
    arrivals: usual,
    vendors: [{ id: "first", phases: [{ kind: "hang", from: "5 minutes", to: "15 minutes" }] }, second]
  },
  "brown-out": {
    about: "For fifteen minutes the first vendor is four times as slow, and refuses one call of five with 503.",
    arrivals: usual,
    vendors: [
      {
        id: "first",
        phases: [
          { kind: "slow", factor: 4, from: "5 minutes", to: "20 minutes" },
          { kind: "overload", share: 0.2, from: "5 minutes", to: "20 minutes" }
        ]
      },
      second
    ]
  },
  "rate-limit-storm": {
    about:
      "Bursts of twenty calls a second, from a batch job for the most part, meet vendors that grant 300 a minute each.",
    arrivals: {
      kind: "bursty",
      calmPerSecond: 3,
      burstPerSecond: 20,
      calm: "90 seconds",
      burst: "30 seconds",
      callers: [{ tenant: "chat", priority: "default", weight: 1 }, { tenant: "job", priority: "batch", weight: 3 }]
    },
    vendors: [
      { id: "first", limits: { requestsPerMinute: 300 } },
      { id: "second", limits: { requestsPerMinute: 300 } }
    ]
  },
  "quota-at-noon": {
    about: "After twelve minutes the account at the first vendor is without credit, and stays so.",
    arrivals: usual,
    vendors: [{ id: "first", phases: [{ kind: "quota", from: "12 minutes" }] }, second]
  },
  "region-loss": {
    about:
      "For fifteen minutes nobody reaches the first region; the second one grants 240 calls a minute, less than come.",
    arrivals: usual,
    vendors: [
      { id: "region-1", phases: [{ kind: "unreachable", after: "1 second", from: "5 minutes", to: "20 minutes" }] },
      { id: "region-2", limits: { requestsPerMinute: 240 } },
      { id: "other" }
    ]
  },
  flapping: {
    about: "For fifteen minutes the first vendor fails for twenty seconds of each minute.",
    arrivals: usual,
    vendors: [
      {
        id: "first",
        phases: [{ kind: "error", from: "5 minutes", to: "20 minutes", every: "1 minute", lasts: "20 seconds" }]
      },
      second
    ]
  },
  "slow-first-token": {
    about: "Streams. For ten minutes the first token of the first vendor comes twenty seconds later.",
    arrivals: { ...usual, operation: "stream" },
    vendors: [
      { id: "first", phases: [{ kind: "slow", firstToken: "20 seconds", from: "5 minutes", to: "15 minutes" }] },
      second
    ]
  },
  "bad-deploy": {
    about:
      "For seven minutes the first vendor answers 500; then it comes back with room for four calls, for ten minutes.",
    arrivals: usual,
    vendors: [
      {
        id: "first",
        phases: [
          { kind: "error", from: "5 minutes", to: "12 minutes" },
          { kind: "capacity", concurrent: 4, from: "12 minutes", to: "22 minutes" }
        ]
      },
      second
    ]
  },
  outage: {
    about: "An hour. From minute 10 to 25 the first vendor refuses nine of ten calls with 503, from 35 to 40 it hangs.",
    arrivals: { ...usual, perSecond: 5.4, duration: "1 hour" },
    vendors: [
      {
        id: "first",
        phases: [
          { kind: "overload", share: 0.9, from: "10 minutes", to: "25 minutes" },
          { kind: "hang", from: "35 minutes", to: "40 minutes" }
        ]
      },
      second
    ]
  }
})

export type Name = keyof typeof scenarios
