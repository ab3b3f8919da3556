// Which target is asked first, call by call. The walk along the targets stays as it is.
import * as Context from "effect/Context"
import * as Random from "effect/Random"
import * as Routing from "../resilience/Routing.ts"
import type { Call } from "./call.ts"
import type { TargetConfig } from "./target.ts"

/** The numbers of the targets for one call, first to last; `undefined`: as they are listed. */
export type Route = (call: Call, now: number) => Routing.Order | undefined

export class Router {
  private readonly policy: Routing.Policy | undefined
  /** A call that measures nothing explores nothing. */
  private readonly settled: Routing.Policy | undefined
  private readonly ids: ReadonlyArray<string>
  private readonly weights: ReadonlyArray<number>
  private readonly speeds: Array<Routing.Speed>

  /** Throws `LlmConfigError`. */
  constructor(policy: Routing.Policy | undefined, configs: ReadonlyArray<TargetConfig>) {
    this.policy = policy
    this.settled = this.policy && { ...this.policy, explore: 0 }
    this.ids = configs.map(({ id }) => id)
    this.weights = Routing.weights(configs.map(({ weight }) => weight))
    this.speeds = configs.map(() => Routing.unmeasured)
  }

  /** Learns how fast a target is, where that is asked for. */
  measures(index: number): ((millis: number, now: number) => void) | undefined {
    const { policy, speeds } = this
    return policy?.strategy !== "fastest" ? undefined : (millis, now) => {
      speeds[index] = Routing.measured(policy, speeds[index]!, millis, now)
    }
  }

  readonly route: Route = (call, now) => {
    const { conversation, targets, tenant } = call.request
    if (targets !== undefined) return told(call, now, "request", this.ids, targets.map((id) => this.ids.indexOf(id)))
    const { ids, policy, speeds, weights } = this
    if (policy === undefined) return undefined
    const { sticky, strategy } = policy
    const key = sticky === "conversation" ? conversation : sticky === "tenant" ? tenant : undefined
    if (key !== undefined) {
      // Two tenants may call their conversations the same.
      const own = sticky === "tenant" || tenant === undefined ? key : JSON.stringify([tenant, key])
      return told(call, now, "sticky", ids, Routing.byKey(own, ids, weights))
    }
    if (strategy === "order") return undefined
    const isStream = call.root.operation === "stream"
    // Where nothing is measured, whole answers go as listed; streams find out.
    if (strategy === "fastest" && !isStream && speeds.every(({ weight }) => weight === 0)) return undefined
    const chance = Context.get(call.root.context, Random.Random)
    const draw = (): number => chance.nextDoubleUnsafe()
    const order = strategy === "weights"
      ? Routing.byWeight(weights, draw)
      : Routing.bySpeed(isStream ? policy : this.settled!, speeds, now, draw)
    return told(call, now, strategy, ids, order)
  }
}

const told = (
  { root }: Call,
  now: number,
  by: "request" | "sticky" | "weights" | "fastest",
  ids: ReadonlyArray<string>,
  order: Routing.Order
): Routing.Order => {
  root.emit({ _tag: "Routed", call: root.id, at: root.since(now), by, target: ids[order[0]!]! })
  return order
}
