// `node test/replay/http.ts`: the simulator against the real thing. The same arrivals and the same troubles, five times: once
// in virtual time, once over HTTP on this machine, with the vendors' own wire formats and real clocks.
import { Effect, Exit, Layer, Redacted } from "effect"
import { LlmClient, type LlmConfig, LlmObserver } from "../../src/index.ts"
import * as DispatcherHttpClient from "../../src/node/DispatcherHttpClient.ts"
import { Anthropic } from "../../src/providers/Anthropic.ts"
import { OpenAi } from "../../src/providers/OpenAi.ts"
import { FaultServer, Simulator, VirtualTime } from "../../src/testing/index.ts"

const CALLS = 2000
const PER_SECOND = 50
const RUNS = 5

// A twentieth of what is usual, so that a run takes forty seconds.
const options = {
  cache: false,
  idempotency: false,
  rateLimit: false,
  timeout: { attempt: "3 seconds", deadline: "15 seconds" },
  retry: { baseDelay: "50 millis", maxDelay: "3 seconds" },
  circuitBreaker: { window: "3 seconds", recoveryTimeout: "1500 millis", maxRecoveryTimeout: "15 seconds" }
} as const satisfies LlmConfig.Options

const SPREAD = 0.4
const REFUSAL = 20
const millis = { first: 120, second: 180 } as const

interface Ill {
  /** Seconds. */
  readonly from: number
  readonly to: number
  readonly kind: "overload" | "hang"
  readonly share: number
}

/** For a while both are ill, so not every call can be answered. */
const phases: { readonly [K in keyof typeof millis]: ReadonlyArray<Ill> } = {
  first: [
    { from: 8, to: 18, kind: "overload", share: 0.9 },
    { from: 25, to: 29, kind: "hang", share: 1 }
  ],
  second: [{ from: 12, to: 16, kind: "overload", share: 0.6 }]
}
const names = ["first", "second"] as const

interface Figures {
  readonly availability: number
  readonly attempts: number
  readonly p50: number
  readonly p99: number
}

const normal = (random: () => number): number =>
  Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())

const arrivalsOf = (seed: number): ReadonlyArray<Simulator.TracedCall> => {
  const random = VirtualTime.chance(seed * 7919)
  let at = 0
  return Array.from({ length: CALLS }, () => {
    at -= 1000 / PER_SECOND * Math.log(1 - random.nextDoubleUnsafe())
    return { at, input: 0, output: 0 }
  })
}

const simulated = (seed: number) =>
  Effect.map(
    Simulator.run({
      arrivals: { kind: "trace", calls: arrivalsOf(seed) },
      vendors: names.map((id) => ({
        id,
        latency: { firstToken: millis[id], spread: SPREAD },
        phases: phases[id].map(({ from, kind, share, to }): Simulator.Phase => ({
          kind,
          share,
          from: from * 1000,
          to: to * 1000,
          ...(kind === "overload" ? { after: REFUSAL } : undefined)
        }))
      })),
      policies: [{ name: "x", options }],
      seed
    }),
    ({ policies: [policy] }): Figures => ({
      availability: policy!.availability,
      attempts: policy!.attempts,
      p50: policy!.latency.p50,
      p99: policy!.latency.p99
    })
  )

const real = (seed: number) =>
  Effect.scoped(Effect.gen(function*() {
    const own = VirtualTime.chance(seed * 104_729)
    const random = (): number => own.nextDoubleUnsafe()
    const servers = { first: yield* FaultServer.make(), second: yield* FaultServer.make() }
    const stepOf = (name: keyof typeof millis, ill: Ill | undefined) => (): FaultServer.Fault =>
      ill === undefined || random() >= ill.share
        ? FaultServer.slowHeaders(millis[name] * Math.exp(SPREAD * normal(random)))
        : ill.kind === "hang"
        ? FaultServer.hang()
        : FaultServer.error("Overloaded", { delayMillis: REFUSAL })
    /** Each request gets a step of its own, of more than come. */
    const weather = (name: keyof typeof millis, ill: Ill | undefined) =>
      Effect.andThen(
        servers[name].always(FaultServer.ok()),
        servers[name].play(...Array.from({ length: 4 * CALLS }, stepOf(name, ill)))
      )
    yield* Effect.forEach(names, (name) => weather(name, undefined))

    let attempts = 0
    const apiKey = Redacted.make("simulated")
    const context = yield* Layer.build(Layer.mergeAll(
      Layer.provide(
        Layer.mergeAll(
          OpenAi.layer({ apiKey, baseUrl: servers.first.openai }),
          Anthropic.layer({ apiKey, baseUrl: servers.second.anthropic })
        ),
        DispatcherHttpClient.layerAgent()
      ),
      LlmObserver.layer(() =>
        Effect.succeed((event) => {
          if (event._tag === "AttemptStarted") attempts += 1
        })
      )
    ))
    const client = yield* Effect.provide(LlmClient.make([OpenAi, Anthropic], options), context)
    const run = Effect.runForkWith(yield* Effect.context())
    // The first calls of a process load its code.
    yield* Effect.forEach([1, 2, 3], () => client.complete("Hi"))
    attempts = 0
    const took: Array<number> = []
    let answered = 0
    const begun = performance.now() + 100
    const until = (at: number) => Effect.sleep(Math.max(begun + at - performance.now(), 0))
    const changes = names.flatMap((name) =>
      phases[name].flatMap((ill) => [
        Effect.andThen(until(ill.from * 1000), weather(name, ill)),
        Effect.andThen(until(ill.to * 1000), weather(name, undefined))
      ])
    )
    yield* Effect.forEach(changes, (change) => Effect.forkScoped(change), { discard: true })
    for (const { at } of arrivalsOf(seed)) {
      yield* until(at)
      const started = performance.now()
      run(client.complete("Hi")).addObserver((exit) => {
        took.push(performance.now() - started)
        if (Exit.isSuccess(exit)) answered += 1
      })
    }
    yield* Effect.repeat(Effect.sleep(20), { until: () => took.length === CALLS })
    const sorted = took.toSorted((a, b) => a - b)
    const quantile = (q: number): number => sorted[Math.ceil(q * CALLS) - 1]!
    return { availability: answered / CALLS, attempts, p50: quantile(0.5), p99: quantile(0.99) } satisfies Figures
  }))

const percent = (share: number): string => `${(share * 100).toFixed(2)} %`
const show = ({ attempts, availability, p50, p99 }: Figures): string =>
  `${percent(availability)} | ${attempts} | ${p50.toFixed(0)} ms | ${p99.toFixed(0)} ms`
const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

const off: { availability: Array<number>; attempts: Array<number>; p50: Array<number>; p99: Array<number> } = {
  availability: [],
  attempts: [],
  p50: [],
  p99: []
}
process.stdout.write("| seed | | answered | attempts | p50 | p99 |\n| --- | --- | --- | --- | --- | --- |\n")
for (let seed = 1; seed <= RUNS; seed++) {
  const [virtual, http] = [await Effect.runPromise(simulated(seed)), await Effect.runPromise(real(seed))]
  process.stdout.write(`| ${seed} | simulated | ${show(virtual)} |\n|  | HTTP | ${show(http)} |\n`)
  off.availability.push(Math.abs(http.availability - virtual.availability))
  for (const name of ["attempts", "p50", "p99"] as const) {
    off[name].push(Math.abs(http[name] / virtual[name] - 1))
  }
}
process.stdout.write(
  `\nmedian of ${RUNS} differences: availability ${(median(off.availability) * 100).toFixed(2)} points, ` +
    `attempts ${percent(median(off.attempts))}, p50 ${percent(median(off.p50))}, p99 ${percent(median(off.p99))}\n`
)
