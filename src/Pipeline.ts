/**
 * The composition of all patterns. Reading this file from top to bottom is reading the diagram:
 *
 * ```
 * deadline › idempotency › does it fit? › fresh cache › stale fallback › failover › retry (budget) ›
 *   [ breaker peek › guards of yours › bulkhead › client bucket › target limits › breaker admit › timer › provider ]
 * ```
 *
 * The deadline is not a wrapper but a moment that every wait below respects. The bracket is one attempt. A stage whose
 * pattern is off is the stage it was given. `complete` and `stream` run through the same stages: an attempt opens
 * something, and only what it opens differs.
 *
 * @since 0.1.0
 */
import * as Tokenizer from "effect/ai/Tokenizer"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "./internal/clock.ts"
import { attempt } from "./internal/option.ts"
import { type Options, settings as settingsOf } from "./LlmConfig.ts"
import { InvalidRequest, type LlmConfigError } from "./LlmError.ts"
import type { Guard } from "./LlmGuard.ts"
import { ask, timed } from "./pipeline/ask.ts"
import * as Background from "./pipeline/background.ts"
import { cached, makeCache, noFallback } from "./pipeline/cache.ts"
import { type Begin, type Call, opening } from "./pipeline/call.ts"
import { checked } from "./pipeline/checked.ts"
import { failedOver } from "./pipeline/failover.ts"
import { guarded } from "./pipeline/guards.ts"
import type { Hub } from "./pipeline/hub.ts"
import { idempotent } from "./pipeline/idempotency.ts"
import { counting } from "./pipeline/patterns.ts"
import { retried } from "./pipeline/retry.ts"
import { Router } from "./pipeline/routing.ts"
import type { Settings } from "./pipeline/settings.ts"
import { makeFleet, makeOrder, makesLimiters, watching } from "./pipeline/shared.ts"
import type { ErrorOf, Served, Stage } from "./pipeline/stage.ts"
import * as Target from "./pipeline/target.ts"
import * as Failover from "./resilience/Failover.ts"

/** Targets in failover order. */
export type Order = readonly [Target.TargetConfig, ...ReadonlyArray<Target.TargetConfig>]

/** The composed pipeline. */
export interface Pipeline<out E> {
  /** Opens the books of one call: everything it opens hangs below `scope`. */
  readonly begin: Begin
  readonly run: (call: Call) => Effect.Effect<Served, E | InvalidRequest>
  readonly status: Effect.Effect<Target.Status>
}

/** Builds every pattern and composes them, once. Fails when an option is wrong. */
export const make = <GE>(
  configs: Order,
  options: Options,
  guards: ReadonlyArray<Guard<GE>>,
  hub: Hub
) =>
  Effect.gen(function*() {
    const settings = yield* attempt(() => settingsOf(configs, options))
    const { bucket: limits, cache, failover, hedge, idempotency, retry, routing, timers } = settings
    const builtAt = monotonicMillis(yield* Clock.Clock)
    const watch = yield* watching(hub, builtAt)
    const limiter = yield* makesLimiters(watch)
    const fleet = yield* makeFleet(watch)
    const bucket = limits === undefined ? undefined : yield* limiter("client", limits)
    const counter = counting(Option.getOrUndefined(yield* Effect.serviceOption(Tokenizer.Tokenizer)))
    const router = yield* attempt(() => new Router(routing, configs))
    const ids = configs.map(({ id }) => id)
    const order = yield* failover === undefined ? Failover.make(ids) : makeOrder(ids, failover, watch)
    const { maxAttempts } = order.policy
    const background = yield* Background.make
    const begin = opening(hub, timers?.deadline ?? Infinity, configs)

    const common = { settings, guards, bucket, limiter, counting: counter, fleet, router, hub, background, builtAt }
    const candidate = (config: Target.TargetConfig, index: number) =>
      Effect.map(Target.make<GE>(config, index, common), (target) => {
        const bracket = guarded(target, target.doors)(timed(timers)(ask(timers)))
        return { ...target, target, once: bracket, stage: retried(retry, target, maxAttempts)(bracket) }
      })
    const [primary, ...others] = configs
    const first = yield* candidate(primary, 0)
    const later = yield* Effect.forEach(others, (config, i) => candidate(config, i + 1))

    const answered = failedOver(order, failover !== undefined, hedge, router.route)([first, ...later])
    const kept = cache === undefined ? undefined : yield* makeCache(cache, begin, background, watch)
    const stored = checked([first, ...later])(cached(kept)(answered))
    const run = idempotency === undefined
      ? stored
      : yield* idempotent(idempotency, watch, kept?.orStale ?? noFallback, stored)

    const status: Effect.Effect<Target.Status> = Effect.gen(function*() {
      const rateLimit = bucket === undefined ? undefined : yield* bucket.snapshot
      const targets = yield* Effect.forEach([first, ...later], ({ target }) => Target.statusOf(target, order))
      return { targets, rateLimit }
    })
    return { begin, run: checkedRun(run, settings, configs), status } satisfies Pipeline<ErrorOf<typeof run>>
  })

/** What the compiler finds a pipeline to fail with, when guards of users fail with `GE`. */
export type PipelineError<GE> = ReturnType<typeof make<GE>> extends
  Effect.Effect<Pipeline<infer E>, LlmConfigError, Scope.Scope> ? E : never

/** Refuses what a request asks of this client in vain, and a question that cannot be compared. */
const checkedRun =
  <E>(run: Stage<E>, { retry, timers }: Settings, configs: Order) =>
  (call: Call): Effect.Effect<Served, E | InvalidRequest> =>
    Effect.suspend((): Effect.Effect<Served, E | InvalidRequest> => {
      const { request } = call
      if (timers === undefined && request.deadline !== undefined) {
        return refused("deadline", "absent while `timeout` is off")
      }
      if (retry === undefined && request.retry) return refused("retry", "absent or `false` while `retry` is off")
      const stranger = request.targets?.findIndex((id) => configs.every((config) => config.id !== id)) ?? -1
      if (stranger >= 0) return refused(`targets[${stranger}]`, `one of ${configs.map(({ id }) => id).join(", ")}`)
      try {
        return run(call, call.root.startedAt)
      } catch (error) {
        // The first stage that compares questions asks what this one is.
        if (error instanceof InvalidRequest) return Effect.fail(error)
        throw error
      }
    })

const refused = (path: string, rule: string): Effect.Effect<never, InvalidRequest> =>
  Effect.fail(new InvalidRequest({ path, rule, kind: "given" }))
