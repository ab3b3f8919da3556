// Which patterns only watch, and what is left without them.
import * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import type { Settings, TargetSettings } from "./settings.ts"
import { limiterAt } from "./turn.ts"

const limitsOnlyWatch = (limits: TargetSettings["limits"]): boolean => limiterAt(limits)?.isShadow === true

const circuitOnlyWatches = (circuit: TargetSettings["circuit"]): boolean =>
  circuit !== undefined && !CircuitBreaker.isCircuitBreaker(circuit) && circuit.policy.isShadow

/** What only watches does nothing. */
export const enforced = (settings: Settings): Settings => {
  const { budget, bucket, hedge, shedding, targets } = settings
  return {
    ...settings,
    budget: budget?.isShadow === true ? undefined : budget,
    bucket: limitsOnlyWatch(bucket) ? undefined : bucket,
    hedge: hedge?.mode === "shadow" ? undefined : hedge,
    shedding: shedding?.isShadow === true ? undefined : shedding,
    targets: targets.map(({ bulkhead, circuit, id, limits }) => ({
      id,
      bulkhead,
      limits: limitsOnlyWatch(limits) ? undefined : limits,
      circuit: circuitOnlyWatches(circuit) ? undefined : circuit
    }))
  }
}

/** The names of what only watches. */
export const watching = ({ budget, bucket, hedge, shedding, targets }: Settings): ReadonlyArray<string> =>
  [
    hedge?.mode === "shadow" && "hedge",
    budget?.isShadow === true && "retry budget",
    shedding?.isShadow === true && "load-shedding",
    limitsOnlyWatch(bucket) && "rate-limit (client)",
    ...targets.map(({ id, limits }) => limitsOnlyWatch(limits) && `rate-limit (${id})`),
    ...targets.map(({ circuit, id }) => circuitOnlyWatches(circuit) && `circuit-breaker (${id})`)
  ].filter((name): name is string => typeof name === "string")
