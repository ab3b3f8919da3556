// Cache: a fresh answer instead of a call, a stale one instead of a failure. Over a store it costs nothing in the good
// case but one write, which nobody waits for; with `readThrough` it is also asked once before the call.
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { classify, isLlmError, type LlmConfigError, summary } from "../LlmError.ts"
import { isDone } from "../LlmGuard.ts"
import { type Answer, isReplayable } from "../LlmResponse.ts"
import type { Health } from "../persistence/Health.ts"
import * as ResponseCache from "../resilience/ResponseCache.ts"
import type { Background } from "./background.ts"
import { type Begin, type Call, ended } from "./call.ts"
import { accepts } from "./checked.ts"
import { answersIn } from "./records.ts"
import type { Settings } from "./settings.ts"
import { chain, drain, type Served, sizeOf, type Stage, whenEnded, whole } from "./stage.ts"

/** A stale answer for a failure, or the failure. */
export type Fallback = <E>(call: Call, error: E) => Effect.Effect<Served, E>

export const noFallback: Fallback = (_, error) => Effect.fail(error)

export interface Cache {
  readonly orStale: Fallback
  readonly stage: <E>(self: Stage<E>) => Stage<E>
}

/** Are there tools for the caller to run? */
const callsTools = ({ parts }: Answer): boolean =>
  parts.some((part) => part.type === "tool-call" && part.providerExecuted !== true)

/** What is asked, and in which way: a stream and a whole answer are different things to keep. No identity begins so. */
export const questionOf = ({ root }: Call): string =>
  root.operation === "complete" ? root.identity : `[${root.operation}]${root.identity}`

export const cached = (cache: Cache | undefined) => <E>(self: Stage<E>): Stage<E> =>
  cache === undefined ? self : cache.stage(self)

export const makeCache = (
  { readThrough, toolCalls, ...rules }: NonNullable<Settings["cache"]>,
  begin: Begin,
  background: Background,
  watch: (health: Health) => void
): Effect.Effect<Cache, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const given = yield* ResponseCache.ResponseCacheStore
    if (given?.health !== undefined) watch(given.health)
    const cache = yield* ResponseCache.make<Answer>(given === undefined ? rules : { ...rules, store: answersIn(given) })

    const event = (
      call: Call,
      result: "fresh" | "miss" | "stored" | "rejected" | "unavailable",
      at = call.root.since()
    ) => call.root.emit({ _tag: "Cache", call: call.root.id, at, result })
    /** Both ways, for a store may be shared with a client that keeps more. */
    const fits = (call: Call, answer: Answer): boolean => (toolCalls || !callsTools(answer)) && accepts(call, answer)

    const keep = (call: Call, answer: Answer): undefined => {
      const now = call.root.answeredAt
      // Hedges that lost may have been given up since.
      const at = Math.max(call.root.since(now), call.root.events.at(-1)?.at ?? 0)
      if (!isReplayable(answer) || !fits(call, answer)) {
        event(call, "rejected", at)
        return undefined
      }
      const stored = cache.storeAt(questionOf(call), answer, sizeOf(answer), now, () => event(call, "unavailable"))
      if (isDone(stored)) {
        event(call, Exit.isSuccess(stored) && stored.value ? "stored" : "rejected", at)
        return undefined
      }
      // Handed over; nobody waits until it is written.
      event(call, "stored", at)
      background.run(stored)
      return undefined
    }

    const kept = (call: Call) => (served: Served): Effect.Effect<Served> =>
      whenEnded(served, () => keep(call, served.answer))

    const standIn = <E>(call: Call, hit: ResponseCache.Hit<Answer> | undefined, error: E): Effect.Effect<Served, E> => {
      if (hit === undefined) return Effect.fail(error)
      const { root } = call
      const { age, value } = hit
      root.emit({ _tag: "Cache", call: root.id, at: root.since(), result: "stale", age, error: summary(error) })
      return Effect.succeed(whole(value, "stale", age))
    }

    /** As of the beginning of the call: what stands in for it is as old as it was when it was asked for. */
    const lookup = (call: Call) => {
      const found = cache.lookupAt(
        questionOf(call),
        call.root.startedAt,
        call.root.since(),
        () => event(call, "unavailable"),
        call.root.patience
      )
      // What does not fit this call is as good as nothing.
      return chain(found, (hit) => Effect.succeed(hit !== undefined && fits(call, hit.value) ? hit : undefined))
    }

    // What a user's guard fails with is not a failure that an answer could stand in for.
    const orStale: Fallback = (call, error) =>
      call.request.cache === "never" || call.request.cache === "no-stale" || !isLlmError(error) ||
        !classify(error).stale
        ? Effect.fail(error)
        : chain(lookup(call), (hit) => standIn(call, hit, error))

    const stage = <E>(self: Stage<E>): Stage<E> => {
      /** The same question asked again in the background, by a call of its own. */
      const refresh = ({ root }: Call): Effect.Effect<void> =>
        Effect.withFiber((fiber) => {
          const scope = Scope.makeUnsafe()
          const call = begin(fiber, root.operation, root.request, root.operation === "stream" ? scope : undefined)
          call.root.check = root.check
          const served = Effect.flatMap(Effect.suspend(() => self(call, call.root.startedAt)), kept(call))
          return Effect.ignore(Effect.onExit(
            Effect.flatMap(served, (served) => Effect.map(drain(served), () => ended(call, served.source))),
            (exit) => {
              const error = Exit.findErrorOption(exit)
              if (error._tag === "Some") ended(call, "failure", error.value)
              return Effect.andThen(Scope.close(scope, exit), Effect.sync(() => ended(call, "interrupted")))
            }
          ))
        })

      const live = (call: Call, now: number): Effect.Effect<Served, E> =>
        Effect.matchEffect(self(call, now), { onSuccess: kept(call), onFailure: (error) => orStale(call, error) })

      return (call, now) => {
        const { cache: wish, seed, temperature } = call.request
        if (wish === "never") return self(call, now)
        // What cannot be compared is refused before anything is asked.
        questionOf(call)
        if (!readThrough || !(wish === "always" || temperature === 0 || seed !== undefined)) return live(call, now)
        return chain(lookup(call), (hit): Effect.Effect<Served, E> => {
          if (hit === undefined || hit.state === "stale" || (wish === "no-stale" && hit.state !== "fresh")) {
            event(call, "miss")
            return live(call, call.root.now())
          }
          const { root } = call
          root.emit({ _tag: "Cache", call: root.id, at: root.since(), result: "fresh", age: hit.age })
          const served = whole(hit.value, "cache", hit.age)
          return hit.state === "fresh"
            ? Effect.succeed(served)
            : Effect.as(cache.revalidate(questionOf(call), refresh(call)), served)
        })
      }
    }

    return { orStale, stage }
  })
