// Whatever code of users does, throws, dies, or returns what is no effect, and wherever the caller is interrupted besides:
// nothing is held afterwards.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Option, References, Schedule, Scope, Stream, Tracer } from "effect"
import {
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmGuard,
  LlmObserver,
  type LlmProvider,
  type LlmResponse
} from "effect-resilient-llm"
import { Content } from "effect-resilient-llm/observability/Tracing"
import { Store } from "effect-resilient-llm/persistence"
import { CircuitBreaker, RateLimiter } from "effect-resilient-llm/resilience"
import { CoolDownStore } from "effect-resilient-llm/resilience/Failover"
import { IdempotencyStore } from "effect-resilient-llm/resilience/Idempotency"
import { RateLimiterStore } from "effect-resilient-llm/resilience/RateLimiter"
import { ResponseCacheStore } from "effect-resilient-llm/resilience/ResponseCache"
import { kinds } from "../support.ts"
import { World } from "./Sweep.world.ts"

class Boom extends Error {}
const boom = (): never => {
  throw new Boom("boom")
}

/** How something goes wrong: it throws, its effect dies, or it returns what is no effect. */
const ways = ["throws", "dies", "returns no effect"] as const
type Way = (typeof ways)[number]
const wrong = (way: Way): Effect.Effect<never> =>
  way === "throws" ? boom() : way === "dies" ? Effect.sync(boom) : 42 as unknown as Effect.Effect<never>

const sites = [
  "nowhere",
  "guard.peek",
  "guard.acquire",
  "guard.settle",
  "guard.release",
  "guard.renew",
  "guard.judge",
  "own guard of the provider",
  "provider",
  "first parts",
  "later parts",
  "parts that throw when they are read",
  "the provider's finalizer",
  "changes of the provider",
  "schedule",
  "when",
  "observer",
  "redactor",
  "tracer",
  "store: acquire",
  "store: complete",
  "store: get",
  "store: set",
  "store: release",
  "limits: reserve",
  "limits: settle",
  "cool-downs: get",
  "cool-downs: set",
  "circuits: trip",
  "circuits: probe",
  "circuits: release",
  "circuits: look",
  "circuits: watch",
  "toJSON"
] as const
type Site = (typeof sites)[number]

const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } } as LlmResponse.Usage
const finish = { type: "finish", reason: "stop", usage } as const
const delta = (text: string): LlmResponse.StreamPart => ({ type: "text-delta", id: "0", delta: text })

/** Counts what it gives. */
const counting = (name: string, at: (site: Site) => Effect.Effect<never> | undefined) => {
  const count = { held: 0, settled: 0, released: 0 }
  const held = (): LlmGuard.Held => {
    count.held += 1
    return {
      settle: () => {
        count.settled += 1
        return at("guard.settle")
      },
      release: () => {
        count.released += 1
        at("guard.release")
      },
      renew: () => void at("guard.renew"),
      judge: (verdict) => {
        at("guard.judge")
        return verdict
      }
    }
  }
  const guard: LlmGuard.Guard<never> = {
    name,
    peek: () => {
      at("guard.peek")
      return undefined
    },
    // Takes its time, so that it is waited for.
    acquire: () => at("guard.acquire") ?? Effect.map(Effect.sleep(5), held)
  }
  return { count, guard }
}

/** What the client and its vendor must be like, for a site to be passed. */
const worldOf = (site: Site) => {
  for (const stores of ["limits", "cool-downs", "circuits"] as const) if (site.startsWith(`${stores}:`)) return stores
  switch (site) {
    case "schedule":
    case "when":
    case "toJSON":
    case "parts that throw when they are read":
      return site
    default:
      return "usual"
  }
}

/** A client in a world of its own, in which `site` goes wrong in `way`. */
const build = (site: Site, way: Way, timers = true) => {
  const like = worldOf(site)
  const world = new World()
  const scope = Scope.makeUnsafe()
  /** What the call has come by. Whether `site` is among them is all that site and way can change in a world. */
  const passed = new Set<Site>()
  const at = (here: Site): Effect.Effect<never> | undefined => {
    passed.add(here)
    return here === site ? wrong(way) : undefined
  }
  const first = counting("first", at)
  const second = counting("second", () => undefined)
  let asked = 0
  const slowly = <A>(value: () => A) => Effect.map(Effect.sleep(10), value)
  const finalized = Effect.suspend(() => at("the provider's finalizer") ?? Effect.void)
  const trapped = Object.defineProperty({ ...finish }, "usage", { enumerable: true, get: boom })
  const last = () => like === "parts that throw when they are read" ? trapped : finish
  const ofCoolDowns = like === "cool-downs"
  const overloaded = new LlmError.ProviderError({
    provider: "p",
    reason: ofCoolDowns ? { _tag: "Quota" } : { _tag: "Overloaded" }
  })
  const provider: LlmProvider.LlmProvider = {
    id: "p",
    guard: { name: "own", acquire: () => at("own guard of the provider") ?? Exit.succeed({}) },
    changes: () => at("changes of the provider") as never ?? [],
    generate: () => {
      if (asked++ === 0) return Effect.fail(overloaded)
      return at("provider") ?? Effect.ensuring(
        Effect.flatMap(
          slowly(() => undefined),
          () => at("first parts") ?? Effect.succeed([{ type: "text", text: "Hi." }, last()])
        ),
        finalized
      )
    },
    stream: () => {
      if (asked++ === 0) return Stream.fail(overloaded)
      const broken = at("provider")
      if (broken !== undefined) return way === "dies" ? Stream.fromEffect(broken) : broken as never
      const pulled = (site: Site | undefined, part: () => LlmResponse.StreamPart) =>
        Stream.fromEffect(Effect.flatMap(slowly(() => undefined), () => (site && at(site)) ?? Effect.sync(part)))
      const parts = [
        pulled("first parts", () => delta("H")),
        pulled("later parts", () => delta("i")),
        pulled(undefined, last)
      ]
      return Stream.ensuring(parts.reduce((all, next) => Stream.concat(all, next)), finalized)
    }
  }
  const memory = world.run(Effect.orDie(Store.memory<string>({ maxEntries: 10 })))
  const store: typeof memory = {
    ...memory,
    acquire: (key, lease) => at("store: acquire") ?? memory.acquire(key, lease),
    complete: (key, fence, value, options) => at("store: complete") ?? memory.complete(key, fence, value, options),
    get: (key) => at("store: get") ?? memory.get(key),
    set: (key, value, options) => at("store: set") ?? memory.set(key, value, options),
    release: (key, fence) => at("store: release") ?? memory.release(key, fence)
  }
  const coolDowns: typeof memory = {
    ...memory,
    get: (key) => at("cool-downs: get") ?? memory.get(key),
    set: (key, value, options) => at("cool-downs: set") ?? memory.set(key, value, options)
  }
  const buckets = world.run(RateLimiter.storeMemory())
  const limits: typeof buckets = {
    ...buckets,
    reserve: (request) => at("limits: reserve") ?? buckets.reserve(request),
    settle: (change) => at("limits: settle") ?? buckets.settle(change)
  }
  const known = world.run(CircuitBreaker.storeMemory())
  const circuits: typeof known = {
    ...known,
    trip: (key, change) => at("circuits: trip") ?? known.trip(key, change),
    // Takes its time, so that it is waited for.
    probe: (key, slots, lease) => at("circuits: probe") ?? Effect.delay(known.probe(key, slots, lease), 5),
    release: (key, slot) => at("circuits: release") ?? known.release(key, slot),
    look: (key) => at("circuits: look") ?? known.look(key),
    watch: (key, changed) => at("circuits: watch") as never ?? known.watch!(key, changed)
  }
  const tracer = Tracer.make({ span: (options) => at("tracer") as never ?? new Tracer.NativeSpan(options) })
  const schedule = Schedule.fromStep(
    Effect.sync(() => () => at("schedule") ?? Effect.succeed<[number, Duration]>([0, { _tag: "Duration" } as never]))
  ) as unknown as Schedule.Schedule<unknown>
  const options = {
    retry: {
      maxRetries: 2,
      ...(like === "schedule" ? { schedule } : { baseDelay: 1 }),
      ...(like === "when" ? { when: () => at("when") === undefined } : undefined)
    },
    bulkhead: { maxConcurrent: 1, queue: 0 },
    circuitBreaker: { failureThreshold: 1, recoveryTimeout: 0, maxRecoveryTimeout: 0 },
    cache: { readThrough: true },
    timeout: timers ? {} : false
  } as const satisfies LlmConfig.Options
  const observer = LlmObserver.layer(() => Effect.succeed(() => void at("observer")))
  const target = { provider, limits: [{ dimension: "tokens", limit: 1e6, per: "1 minute" }] } as const
  const layer = LlmClient.layerDynamic(
    ofCoolDowns ? [target, { ...target, id: "q" }] : [target],
    { ...options, guards: [first.guard, second.guard] }
  ).pipe(
    Layer.provide(Layer.succeed(CoolDownStore, ofCoolDowns ? coolDowns : undefined)),
    Layer.provide(
      Layer.succeed(CircuitBreaker.CircuitBreakerStore, like === "circuits" ? circuits : undefined)
    ),
    Layer.provide(Layer.succeed(RateLimiterStore, like === "limits" ? limits : undefined)),
    Layer.provide(observer),
    Layer.provide(Layer.succeed(IdempotencyStore, store)),
    Layer.provide(Layer.succeed(ResponseCacheStore, store))
  )
  const built = Effect.map(Layer.build(layer), (context) => Context.get(context, LlmClient))
  // What is thrown is logged; not here.
  const client = world.run(
    Effect.orDie(Scope.provide(built, scope)).pipe(
      Effect.provideService(References.MinimumLogLevel, "None")
    )
  )
  const parameters = like === "toJSON" ? { toJSON: boom } : {}
  const input = (key: boolean) => ({
    prompt: "Hi",
    temperature: 0,
    tools: [{ name: "t", parameters }],
    ...(key ? { idempotencyKey: "k" } : undefined)
  })
  const services = Context.make(Tracer.Tracer, tracer).pipe(
    Context.add(Content, (text: string) => {
      at("redactor")
      return text
    })
  )
  const ask = (kind: "complete" | "stream", key: boolean): Effect.Effect<unknown, unknown> =>
    Effect.provideContext(
      kind === "complete"
        ? client.complete(input(key))
        : Effect.scoped(Effect.flatMap(client.open(input(key)), ({ parts }) => Stream.runDrain(parts))),
      services
    )
  const assertNothingHeld = (where: string): void => {
    for (const { bulkhead, circuit } of world.run(client.status).targets) {
      assert.strictEqual(bulkhead?.inUse, 0, `${where}: permits`)
      assert.strictEqual(circuit?.probes, 0, `${where}: probes`)
    }
    if (like === "circuits" && site !== "circuits: release") {
      const { slot } = world.run(known.probe("p", 1, 1))
      assert.isDefined(slot, `${where}: a place among the probes`)
    }
    for (const { count } of [first, second]) {
      assert.deepStrictEqual([count.settled, count.released], [count.held, count.held], `${where}: guards`)
    }
  }
  const close = () => world.run(Scope.close(scope, Exit.void))
  return { world, passed, ask, assertNothingHeld, close }
}
type Duration = never

interface Run {
  readonly isRunning: boolean
  readonly passed: ReadonlySet<Site>
}
/** Runs in which nothing went wrong: they are the same for all sites that were not passed, so each is made once. */
const uneventful = new Map<string, Run>()

/** One call, interrupted after `steps` yields; says whether it was still running then. */
const run = (
  kind: "complete" | "stream",
  site: Site,
  way: Way,
  key: boolean,
  timers: boolean,
  steps: number
): boolean => {
  const where = `${kind}, ${site} ${way}, key ${key}, timers ${timers}, step ${steps}`
  const same = `${worldOf(site)}, ${kind}, key ${key}, timers ${timers}, step ${steps}`
  const known = uneventful.get(same)
  if (known !== undefined && !known.passed.has(site)) return known.isRunning
  const { ask, assertNothingHeld, close, passed, world } = build(site, way, timers)
  const call = world.fork(ask(kind, key), 8)
  for (let i = 0; i < steps && call.pollUnsafe() === undefined; i++) world.step()
  const isRunning = call.pollUnsafe() === undefined
  call.interruptUnsafe()
  world.until(call)
  assertNothingHeld(where)
  close()
  if (!passed.has(site)) uneventful.set(same, { isRunning, passed })
  return isRunning
}

/** Where it goes wrong inside of an effect of the provider. */
const inside: ReadonlySet<Site> = new Set(["first parts", "later parts", "the provider's finalizer"])

describe.each(kinds)("%s", (kind) => {
  it.each(sites)(
    "nothing is held after a call in which something goes wrong, wherever it is interrupted: %s",
    (site) => {
      let interrupted = 0
      for (const way of ways) {
        // Effect ends a fibre on the spot, without its finalizers, when some code inside it returns what is no effect: what
        // the provider's own effects do with the fibre they are given is theirs.
        const isInside = way === "returns no effect" && inside.has(site)
        if (isInside && site === "the provider's finalizer") continue
        for (const timers of isInside ? [true] : [true, false]) {
          for (const key of [false, true]) {
            for (let steps = 0; run(kind, site, way, key, timers, steps); steps++) {
              assert.isBelow(steps, 1000, "it never ends")
              interrupted += 1
            }
          }
        }
      }
      // What is refused at once cannot be interrupted.
      if (site !== "toJSON") assert.isAbove(interrupted, 6)
    }
  )
})

describe("what goes wrong is a defect of the call, or hinders nobody", () => {
  const exitOf = (kind: "complete" | "stream", site: Site, way: Way) => {
    const { ask, world } = build(site, way)
    return world.finish(ask(kind, false))
  }
  const defects: ReadonlyArray<Site> = ["guard.acquire", "own guard of the provider", "provider", "first parts"]
  // What returns a plain value can only throw.
  const thrown: ReadonlyArray<Site> = ["when", "changes of the provider"]
  const harmless: ReadonlyArray<Site> = [
    "guard.settle",
    "guard.release",
    "guard.renew",
    "guard.judge",
    "observer",
    "redactor",
    "store: acquire",
    "store: get",
    "store: set",
    "limits: reserve",
    "limits: settle",
    "cool-downs: get",
    "cool-downs: set"
  ]

  it.each(kinds.flatMap((kind) => defects.flatMap((site) => ways.map((way) => [kind, site, way] as const))))(
    "%s: %s %s: a defect",
    (kind, site, way) => {
      const exit = exitOf(kind, site, way)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), String(exit))
    }
  )

  it.each(kinds.flatMap((kind) => thrown.map((site) => [kind, site] as const)))(
    "%s: %s throws: a defect",
    (kind, site) => {
      const exit = exitOf(kind, site, "throws")
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), String(exit))
    }
  )

  it.each(kinds.flatMap((kind) => harmless.map((site) => [kind, site] as const)))(
    "%s: %s throws: an answer",
    (kind, site) => {
      const exit = exitOf(kind, site, "throws")
      assert.isTrue(Exit.isSuccess(exit), String(exit))
    }
  )

  it.each(kinds)("%s: toJSON throws: a request that is refused", (kind) => {
    const exit = exitOf(kind, "toJSON", "throws")
    const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : Option.none()
    assert.instanceOf(Option.getOrUndefined(error), LlmError.InvalidRequest)
  })
})
