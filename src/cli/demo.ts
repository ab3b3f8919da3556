// Two local servers that fail on cue, and every pattern seen at work against them.
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type * as Terminal from "effect/Terminal"
import { LlmClient } from "../LlmClient.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import * as DispatcherHttpClient from "../node/DispatcherHttpClient.ts"
import * as Metrics from "../observability/Metrics.ts"
import * as Prometheus from "../observability/Prometheus.ts"
import { Anthropic } from "../providers/Anthropic.ts"
import { OpenAi } from "../providers/OpenAi.ts"
import * as FaultServer from "../testing/FaultServer.ts"
import { type Case, type Check, limited, main, PRIMARY, SECONDARY, type Stage, streams } from "./cases.ts"
import { Failed } from "./failures.ts"
import * as Progress from "./progress.ts"
import { duration, flow, ledger, type Paint } from "./render.ts"
import { type Device, devices } from "./terminal.ts"

/**
 * Plays the cases one after the other; fails when one of them did not behave. With `metrics`, standard output is kept
 * for what Prometheus would read afterwards, and the stories go to standard error.
 */
export const demo = (
  cases: ReadonlyArray<Case>,
  { metrics }: { readonly metrics: boolean }
): Effect.Effect<void, Failed | LlmConfigError, Stdio.Stdio | Terminal.Terminal> =>
  metrics ? Effect.provide(play(cases, true), Metrics.layer()) : play(cases, false)

const play = (
  cases: ReadonlyArray<Case>,
  metrics: boolean
): Effect.Effect<void, Failed | LlmConfigError, Stdio.Stdio | Terminal.Terminal> =>
  Effect.scoped(Effect.gen(function*() {
    const { err, out: standard } = yield* devices
    const out = metrics ? err : standard
    const stage = yield* build
    yield* out.write(introduction(stage, out.paint))
    let failed = 0
    let requests = 0
    const [took] = yield* Effect.timed(
      Effect.forEach(cases, (one, i) =>
        Effect.gen(function*() {
          const { checks, events, received } = yield* playOne(one, stage, err)
          if (!checks.every(({ holds }) => holds)) failed += 1
          requests += received
          yield* out.write(story(i + 1, one, events, checks, out))
        }), { discard: true })
    )
    const done = `${cases.length - failed} of ${cases.length} cases behaved as they must`
    yield* out.write([
      failed === 0 ? out.paint("good", `✓ ${done}`) : out.paint("bad", `✗ ${done}`),
      `, in ${duration(Duration.toMillis(took))} with ${requests} HTTP requests.\n`,
      failed === 0 ? `\nYour turn:  ${invocation()} ask "What is AI?" --verbose\n` : ""
    ].join(""))
    if (metrics) yield* standard.write(yield* Prometheus.text)
    yield* failed > 0 ? new Failed() : Effect.void
  }))

const build: Effect.Effect<Stage, LlmConfigError, Scope.Scope> = Effect.gen(function*() {
  const primary = yield* FaultServer.make({
    reply: () => "Artificial intelligence: machines that do what once took a mind."
  })
  const secondary = yield* FaultServer.make({
    reply: () => "Artificial intelligence is the art of teaching machines to think."
  })
  const apiKey = Redacted.make("simulated")
  const providers = Layer.provide(
    Layer.mergeAll(
      OpenAi.layer({ apiKey, baseUrl: primary.openai }),
      Anthropic.layer({ apiKey, baseUrl: secondary.anthropic })
    ),
    DispatcherHttpClient.layerAgent()
  )
  const targets = [
    LlmClient.target(OpenAi, { id: PRIMARY }),
    LlmClient.target(Anthropic, { id: SECONDARY })
  ] as const
  const context = yield* Layer.build(providers)
  return {
    primary,
    secondary,
    main: yield* Effect.provide(LlmClient.make(targets, main), context),
    limited: yield* Effect.provide(LlmClient.make(targets, limited), context),
    streams: yield* Effect.provide(LlmClient.make(targets, streams), context)
  }
})

interface Played {
  readonly events: ReadonlyArray<LlmEvent>
  readonly checks: ReadonlyArray<Check>
  /** Requests that both servers received. */
  readonly received: number
}

/** Runs one case against healthy, forgetful servers and listens to what its client tells. */
const playOne = (one: Case, stage: Stage, err: Device): Effect.Effect<Played> =>
  Effect.scoped(Effect.gen(function*() {
    const client = stage[one.client]
    const events: Array<LlmEvent> = []
    yield* stage.primary.reset
    yield* stage.secondary.reset
    yield* Effect.forkScoped(
      Stream.runForEach(client.events, (event) => Effect.sync(() => events.push(event))),
      { startImmediately: true }
    )
    const progress = yield* Progress.start(err, one.title, client.events)
    const checks = yield* one.run(stage, progress.say).pipe(
      Effect.catchCause((cause) =>
        Cause.hasInterruptsOnly(cause)
          ? Effect.failCause(cause as Cause.Cause<never>)
          : Effect.succeed([{ what: `no failure, but: ${Cause.prettyErrors(cause)[0]?.message}`, holds: false }])
      )
    )
    yield* Effect.sleep("5 millis") // events arrive a moment after they happened
    const [primary, secondary] = [yield* stage.primary.stats, yield* stage.secondary.stats]
    return { events, checks, received: primary.received + secondary.received }
  }))

// -----------------------------------------------------------------------------
// what it looks like
// -----------------------------------------------------------------------------

const introduction = ({ primary, secondary }: Stage, paint: Paint): string =>
  [
    "",
    paint("strong", "effect-resilient-llm"),
    "",
    sentence(
      "Two local servers speak the wire formats of OpenAI and Anthropic and fail on cue. Every request below is real " +
        "HTTP through the full pipeline; every story is the ledger of its calls.",
      ""
    ),
    "",
    `${INDENT}${PRIMARY.padEnd(10)} primary    ${paint("quiet", primary.url)}`,
    `${INDENT}${SECONDARY.padEnd(10)} secondary  ${paint("quiet", secondary.url)}`,
    "\n"
  ].join("\n")

const INDENT = "    "
const sentence = (text: string, indent: string): string => flow(text.split(" "), " ", indent)

/** What every call does, and what was said in the first case, is noise in the others. */
const isNews = (number: number) => (event: LlmEvent): boolean =>
  number === 1 || !(event._tag === "Idempotency" && event.result === "generated" ||
    event._tag === "Cache" && event.result === "stored")

const story = (
  number: number,
  { about, title }: Case,
  events: ReadonlyArray<LlmEvent>,
  checks: ReadonlyArray<Check>,
  { paint }: Device
): string => {
  const broken = checks.filter(({ holds }) => !holds)
  const verdict = broken.length === 0
    ? [flow(checks.map(({ what }, i) => `${i === 0 ? "✓ " : ""}${what}`), " · ").replace("✓", paint("good", "✓"))]
    : broken.map(({ what }) => paint("bad", sentence(`✗ expected ${what}`, INDENT)))
  return [
    `${String(number).padStart(2)}  ${paint("strong", title)}`,
    paint("quiet", sentence(about, INDENT)),
    "",
    ledger(events.filter(isNews(number)), paint),
    "",
    ...verdict,
    "\n"
  ].join("\n")
}

/** As this very program was started. */
const invocation = (): string => process.argv[1]?.endsWith(".ts") === true ? "npm start --" : "resilient-llm"
