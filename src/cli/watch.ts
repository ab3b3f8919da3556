// Two local servers that fail in turn under steady traffic, and a picture of how their client is doing.
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type * as Terminal from "effect/Terminal"
import { monotonicMillis } from "../internal/clock.ts"
import { type Client, LlmClient, type Status } from "../LlmClient.ts"
import type { Options } from "../LlmConfig.ts"
import type { LlmConfigError, LlmError } from "../LlmError.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import * as LlmObserver from "../LlmObserver.ts"
import * as DispatcherHttpClient from "../node/DispatcherHttpClient.ts"
import { Anthropic } from "../providers/Anthropic.ts"
import { OpenAi } from "../providers/OpenAi.ts"
import * as FaultServer from "../testing/FaultServer.ts"
import { PRIMARY, SECONDARY } from "./cases.ts"
import { duration, type Paint } from "./render.ts"
import { devices } from "./terminal.ts"

// Short times, so that something happens; otherwise the defaults.
const options = {
  retry: { maxRetries: 2, baseDelay: "100 millis" },
  timeout: { attempt: "800 millis", firstToken: "800 millis", deadline: "5 seconds" },
  circuitBreaker: { failureThreshold: 4, recoveryTimeout: "2 seconds", maxRecoveryTimeout: "4 seconds" },
  bulkhead: { maxConcurrent: 8, queue: 20, maxWait: "2 seconds" },
  cache: { readThrough: true, ttl: "3 seconds" }
} as const satisfies Options

/** What the servers go through, over and over. */
const weather: ReadonlyArray<{
  readonly what: string
  readonly primary: FaultServer.Fault
  readonly secondary: FaultServer.Fault
}> = [
  { what: "both are well", primary: FaultServer.slowHeaders(30), secondary: FaultServer.slowHeaders(60) },
  { what: `${PRIMARY} is overloaded`, primary: FaultServer.status(503), secondary: FaultServer.slowHeaders(60) },
  { what: `${PRIMARY} is well again`, primary: FaultServer.slowHeaders(30), secondary: FaultServer.slowHeaders(60) },
  { what: `${PRIMARY} hangs`, primary: FaultServer.hang(), secondary: FaultServer.slowHeaders(60) },
  { what: "both are down", primary: FaultServer.status(500), secondary: FaultServer.status(503) }
]
const EACH = "6 seconds"
const CALLS_PER_SECOND = 25

/** Keeps a client busy for a while, and shows it: on a terminal twice a second in place, in a pipe once a second. */
export const watch = (
  time: Duration.Duration | undefined
): Effect.Effect<void, LlmConfigError, Stdio.Stdio | Terminal.Terminal> =>
  Effect.scoped(Effect.gen(function*() {
    const { out } = yield* devices
    const clock = yield* Clock.Clock
    const startedAt = monotonicMillis(clock)
    const now = (): number => monotonicMillis(clock) - startedAt
    const window = new Window(now)
    const primary = yield* FaultServer.make()
    const secondary = yield* FaultServer.make()
    const client = yield* build(primary, secondary, window)

    let sky = weather[0]!
    const change = Effect.forEach(weather, (next) =>
      Effect.gen(function*() {
        sky = next
        yield* primary.always(next.primary)
        yield* secondary.always(next.secondary)
        yield* Effect.sleep(EACH)
      }), { discard: true })
    yield* Effect.forkScoped(Effect.forever(change), { startImmediately: true })
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(
      Effect.sleep(1000 / CALLS_PER_SECOND),
      Effect.forkScoped(one(client), { startImmediately: true })
    )))

    let drawn = 0
    const draw = Effect.gen(function*() {
      const picture = frame(window.view(), yield* client.status, sky.what, out)
      const back = out.canAnimate && drawn > 0 ? `\u001b[${drawn}A\u001b[J` : ""
      drawn = picture.split("\n").length
      yield* out.write(`${back}${picture}\n${out.canAnimate ? "" : "\n"}`)
    })
    const drawing = Effect.forever(Effect.andThen(Effect.sleep(out.canAnimate ? 500 : 1000), draw))
    yield* time === undefined ? drawing : Effect.timeoutOption(drawing, time)
  }))

/** Half of the traffic streams; some questions come again and again. */
const one = (client: Client<LlmError>): Effect.Effect<unknown> =>
  Effect.gen(function*() {
    const kind = yield* Random.next
    const prompt = `Question ${Math.floor((yield* Random.next) ** 2 * 60)}`
    yield* Effect.exit(
      kind < 0.5
        ? Stream.runDrain(client.stream(prompt))
        : client.complete({ prompt, cache: kind < 0.7 ? "always" : "auto" })
    )
  })

const build = (
  primary: FaultServer.FaultServer,
  secondary: FaultServer.FaultServer,
  window: Window
): Effect.Effect<Client<LlmError>, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const apiKey = Redacted.make("simulated")
    const providers = Layer.provide(
      Layer.mergeAll(
        OpenAi.layer({ apiKey, baseUrl: primary.openai }),
        Anthropic.layer({ apiKey, baseUrl: secondary.anthropic })
      ),
      DispatcherHttpClient.layerAgent()
    )
    const watching = LlmObserver.layer(() => Effect.succeed((event) => window.add(event)))
    const context = yield* Layer.build(Layer.merge(providers, watching))
    const targets = [LlmClient.target(OpenAi, { id: PRIMARY }), LlmClient.target(Anthropic, { id: SECONDARY })] as const
    return yield* Effect.provide(LlmClient.make(targets, options), context)
  })

// -----------------------------------------------------------------------------
// the last ten seconds
// -----------------------------------------------------------------------------

const SPAN = 10_000

interface Heard {
  readonly at: number
  readonly event: LlmEvent
}

/** What happened lately. */
export interface View {
  /** Milliseconds since the start. */
  readonly at: number
  /** Milliseconds that `events` cover. */
  readonly span: number
  readonly events: ReadonlyArray<LlmEvent>
  readonly inFlight: number
}

export class Window {
  private heard: Array<Heard> = []
  private inFlight = 0
  private readonly now: () => number

  constructor(now: () => number) {
    this.now = now
  }

  add(event: LlmEvent): void {
    if (event._tag === "CallStarted") this.inFlight += 1
    if (event._tag === "CallEnded") this.inFlight -= 1
    this.heard.push({ at: this.now(), event })
  }

  view(): View {
    const at = this.now()
    this.heard = this.heard.filter((one) => one.at > at - SPAN)
    return { at, span: Math.min(at, SPAN), events: this.heard.map(({ event }) => event), inFlight: this.inFlight }
  }
}

// -----------------------------------------------------------------------------
// the picture
// -----------------------------------------------------------------------------

const quantile = (sorted: ReadonlyArray<number>, q: number): string =>
  sorted.length === 0 ? "–" : duration(sorted[Math.min(Math.floor(sorted.length * q), sorted.length - 1)]!)

const share = (part: number, whole: number): string => whole === 0 ? "–" : `${Math.round(100 * part / whole)} %`

const perSecond = (count: number, span: number): string => span === 0 ? "–" : (count * 1000 / span).toFixed(1)

const WIDE = 80
// What a narrow terminal can do without comes last.
const WIDTHS = [10, 14, 7, 6, 7, 7, 5, 5]
const GAP = "  "

/** As many on a line as fit: a line that the terminal wraps itself could not be drawn over. */
const wrapped = (facts: ReadonlyArray<string>, gap: string, columns: number): ReadonlyArray<string> => {
  const lines: Array<string> = []
  for (const fact of facts) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + gap.length + fact.length <= columns) {
      lines[lines.length - 1] = last + gap + fact
    } else lines.push(fact.slice(0, columns))
  }
  return lines
}

/** One picture, as wide as the terminal, and at most 80 columns. */
export const frame = (
  { at, events, inFlight, span }: View,
  status: Status,
  weather: string,
  { columns: terminal, paint }: { readonly columns: number; readonly paint: Paint }
): string => {
  const columns = Math.min(terminal, WIDE)
  const of = <T extends LlmEvent["_tag"]>(tag: T) =>
    events.filter((event): event is Extract<LlmEvent, { readonly _tag: T }> => event._tag === tag)
  const calls = of("CallEnded").filter(({ outcome }) => outcome !== "interrupted")
  const answered = calls.filter(({ outcome }) => outcome !== "failure" && outcome !== "defect").length
  const times = calls.map((call) => call.duration).toSorted((a, b) => a - b)
  const cache = of("Cache")
  const hits = cache.filter(({ result }) => result === "fresh").length
  const misses = cache.filter(({ result }) => result === "miss").length
  const stale = cache.filter(({ result }) => result === "stale").length

  const header = ["", "circuit", "asked/s", "errors", "p50", "p95", "busy", "line"]
  const rows = status.targets.map(({ bulkhead, circuit, id }) => {
    const good = of("AttemptSucceeded").filter((one) => one.target === id)
    const bad = of("AttemptFailed").filter((one) => one.target === id && one.outcome === "failure")
    const took = [...good, ...bad].map((one) => one.duration).toSorted((a, b) => a - b)
    const left = circuit?.retryAfter === undefined ? "" : ` ${duration(Duration.toMillis(circuit.retryAfter))}`
    return [
      id,
      `${circuit?.state ?? "–"}${circuit?.state === "open" ? left : ""}`,
      perSecond(good.length + bad.length, span),
      share(bad.length, good.length + bad.length),
      quantile(took, 0.5),
      quantile(took, 0.95),
      bulkhead === undefined ? "–" : `${bulkhead.inUse}/${bulkhead.maxConcurrent}`,
      bulkhead === undefined ? "–" : `${bulkhead.queued}/${bulkhead.maxQueued}`
    ]
  })
  const cells = (row: ReadonlyArray<string>): string =>
    wrapped(
      row.map((cell, i) => i < 2 ? cell.padEnd(WIDTHS[i]!) : cell.padStart(WIDTHS[i]!)),
      GAP,
      columns
    )[0]!
  const tone = (state: string | undefined) => state === "closed" ? "good" : state === "half-open" ? "warn" : "bad"
  const [title, ...below] = wrapped(["effect-resilient-llm", duration(at), weather], GAP, columns)
  return [
    title!.replace("effect-resilient-llm", paint("strong", "effect-resilient-llm"))
      .replace(weather, paint("quiet", weather)),
    ...below.map((line) => paint("quiet", line)),
    "",
    ...wrapped(
      [
        `${perSecond(calls.length, span)} calls/s`,
        `${share(answered, calls.length)} answered`,
        `p50 ${quantile(times, 0.5)}`,
        `p95 ${quantile(times, 0.95)}`,
        `${inFlight} in flight`
      ],
      "   ",
      columns
    ),
    ...wrapped(
      [
        `cache hits ${share(hits, hits + misses)}`,
        `stale ${stale}`,
        `retries ${of("RetryScheduled").length}`,
        `failovers ${of("FailedOver").length}`,
        `refused ${of("AttemptRefused").length}`
      ],
      "   ",
      columns
    ),
    "",
    paint("quiet", cells(header)),
    ...rows.map((row, i) => {
      const line = cells(row)
      const circuit = row[1]!.padEnd(WIDTHS[1]!)
      return line.replace(circuit, paint(tone(status.targets[i]?.circuit?.state), circuit))
    })
  ].join("\n")
}
