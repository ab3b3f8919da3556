// What an acquisition costs, per limit.
import * as Effect from "effect/Effect"
import { kindOf } from "../../internal/issue.ts"
import { InvalidRequest } from "../../LlmError.ts"
import type { RateLimiter } from "../RateLimiter.ts"

/** Marks limiters; it stands here because two files make them. */
export const TypeId = "~effect-resilient-llm/RateLimiter"

export const REQUESTS = "requests"

/** Costs or levels, one per limit. */
export type Vector = ReadonlyArray<number>

export const isCost = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < Infinity

export class Costs {
  readonly dimensions: ReadonlyArray<string>
  /** Index of the dimension that a plain number is the cost of. */
  private readonly main: number

  constructor(limits: ReadonlyArray<{ readonly dimension: string }>) {
    this.dimensions = limits.map(({ dimension }) => dimension)
    this.main = Math.max(this.dimensions.indexOf(REQUESTS), 0)
  }

  of(cost: number | Readonly<Record<string, number>>): Vector | InvalidRequest {
    const costs: Array<number> = []
    for (let i = 0; i < this.dimensions.length; i++) {
      const value = this.named(cost, i)
      if (value !== undefined && !isCost(value)) {
        const path = typeof cost === "number" ? "cost" : `cost.${this.dimensions[i]!}`
        return new InvalidRequest({ path, rule: "a finite number of at least zero", kind: kindOf(value) })
      }
      costs.push(value ?? (typeof cost !== "number" && this.dimensions[i] === REQUESTS ? 1 : 0))
    }
    return costs
  }

  /** What goes back when `actual` was used of `reserved`. */
  difference(reserved: Vector, actual: number | Readonly<Record<string, number>>): Vector {
    return reserved.map((cost, i) => {
      const used = this.named(actual, i)
      return isCost(used) ? cost - used : 0
    })
  }

  withoutRequests(costs: Vector): Vector {
    return costs.map((cost, i) => this.dimensions[i] === REQUESTS ? 0 : cost)
  }

  /** The part of a cost that is about one dimension. */
  private named(cost: number | Readonly<Record<string, number>>, i: number): unknown {
    if (typeof cost === "number") return i === this.main ? cost : undefined
    const dimension = this.dimensions[i]!
    return Object.hasOwn(cost, dimension) ? cost[dimension] : undefined
  }
}

/** Takes a cost before an effect; gives it back when the effect was interrupted before it began. */
export const takeWith = (acquire: RateLimiter["acquire"]): RateLimiter["take"] => (cost, options) => (self) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(acquire(cost, { ...options, restore }), (reservation) => {
      let started = false
      const work = Effect.suspend(() => {
        started = true
        return self
      })
      return Effect.onExit(restore(work), () => started ? Effect.void : reservation.refund("all"))
    })
  )
