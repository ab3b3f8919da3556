/**
 * A provider that plays a script: answers, failures, silence, streams that break. Works with `TestClock`, without a
 * network.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { monotonicMillis } from "../internal/clock.ts"
import { duration, readOption } from "../internal/option.ts"
import { ProviderError, type Reason, TRUNCATED } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { fromAnswer, type Part, type StreamPart, toParts, toStreamParts } from "../LlmResponse.ts"

// -----------------------------------------------------------------------------
// steps
// -----------------------------------------------------------------------------

/**
 * How a step behaves in time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Timing {
  /** Before anything happens. */
  readonly delay?: Duration.Input | undefined
  /** How long the step's own cleanup takes, whatever ends it. */
  readonly cleanup?: Duration.Input | undefined
  /** Ignore interruption, as a transport without cancellation does. */
  readonly uninterruptible?: boolean | undefined
}

/**
 * One element of a scripted stream: a text becomes a text delta, a part is emitted as it is, `wait` is silence, `error`
 * breaks the stream. See {@link cut} and {@link stall} for the other ends.
 *
 * @category models
 * @since 0.1.0
 */
export type Element =
  | string
  | StreamPart
  | { readonly wait: Duration.Input }
  | { readonly error: ProviderError }
  | { readonly end: "cut" | "stall" }

/**
 * What one request meets.
 *
 * @category models
 * @since 0.1.0
 */
export type Step =
  | Timing & { readonly _tag: "Answer"; readonly output: string | ReadonlyArray<Part> }
  | Timing & { readonly _tag: "Fail"; readonly reason: Reason; readonly details: FailDetails }
  | Timing & { readonly _tag: "Hang" }
  | Timing & { readonly _tag: "Die"; readonly defect: unknown }
  | Timing & { readonly _tag: "Stream"; readonly elements: ReadonlyArray<Element> }

/**
 * A step, or what gives one for a request.
 *
 * @category models
 * @since 0.2.0
 */
export type Play = Step | ((request: LlmRequest) => Step)

/**
 * One entry of a script. A {@link Play} is for one request, those of {@link until} and {@link always} are for many.
 *
 * @category models
 * @since 0.2.0
 */
export type Entry =
  | Play
  | { readonly _tag: "Until"; readonly millis: number; readonly play: Play }
  | { readonly _tag: "Always"; readonly play: Play }

/**
 * @category models
 * @since 0.1.0
 */
export interface FailDetails extends Timing {
  readonly status?: number | undefined
  readonly retryAfter?: Duration.Input | undefined
  readonly shouldRetry?: boolean | undefined
}

/**
 * A whole answer. A stream brings it in one delta.
 *
 * @category constructors
 * @since 0.1.0
 */
export const answer = (output: string | ReadonlyArray<Part>, timing: Timing = {}): Step => ({
  _tag: "Answer",
  output,
  ...timing
})

/**
 * A failure with the given reason.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fail = (reason: Reason, details: FailDetails = {}): Step => ({ _tag: "Fail", reason, details, ...details })

/**
 * 503, without a hint.
 *
 * @category constructors
 * @since 0.1.0
 */
export const overloaded: Step = fail({ _tag: "Overloaded" }, { status: 503 })

/**
 * 429 with a hint.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rateLimited = (retryAfter: Duration.Input): Step =>
  fail({ _tag: "RateLimit" }, { status: 429, retryAfter })

/**
 * No answer, ever.
 *
 * @category constructors
 * @since 0.1.0
 */
export const hang: Step = { _tag: "Hang" }

/**
 * A bug in the provider.
 *
 * @category constructors
 * @since 0.1.0
 */
export const die = (defect: unknown): Step => ({ _tag: "Die", defect })

/**
 * The stream ends here, without its terminal part.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cut: Element = { end: "cut" }

/**
 * The stream says nothing more, and does not end.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stall: Element = { end: "stall" }

/**
 * A stream, element by element. Unless it ends with {@link cut}, {@link stall} or an error, a `finish` part is added when the
 * elements have none. For `complete` it stands for the answer that the elements add up to.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stream = (...elements: ReadonlyArray<Element>): Step => ({ _tag: "Stream", elements })

/**
 * What every request meets until so much time has passed since the provider was made. When its turn comes later, it is
 * passed over.
 *
 * **Example** (An outage of ten minutes, in no time)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 * import { TestClock } from "effect/testing"
 *
 * const { always, answer, fail, until } = ScriptedProvider
 * const program = Effect.gen(function*() {
 *   const provider = yield* ScriptedProvider.make([
 *     until("10 minutes", fail({ _tag: "Overloaded" })),
 *     always(({ prompt }) => answer(`${prompt.length} message(s) received`))
 *   ])
 *   const ask = Effect.exit(provider.generate({ prompt: [{ role: "user", content: "Hi" }] }))
 *   const during = yield* ask
 *   yield* TestClock.adjust("10 minutes")
 *   return [during._tag, (yield* ask)._tag]
 * })
 * await Effect.runPromise(Effect.provide(program, TestClock.layer())) // => ["Failure", "Success"]
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const until = (time: Duration.Input, play: Play): Entry => ({
  _tag: "Until",
  millis: readOption(duration(), time, "until"),
  play
})

/**
 * What every request meets when the rest of the script is over, also what is played later. The last one of a script
 * counts. Without one, it is an answer.
 *
 * @category constructors
 * @since 0.2.0
 */
export const always = (play: Play): Entry => ({ _tag: "Always", play })

// -----------------------------------------------------------------------------
// provider
// -----------------------------------------------------------------------------

/**
 * One request that reached the provider.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recorded {
  /** Monotonic milliseconds since the provider was made. */
  readonly at: number
  readonly operation: "complete" | "stream"
  readonly request: LlmRequest
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ScriptedProvider extends LlmProvider {
  /** Every request so far. */
  readonly requests: Effect.Effect<ReadonlyArray<Recorded>>
  /** Requests that are being served. */
  readonly active: Effect.Effect<number>
  /** Appends to the script. */
  readonly play: (...entries: ReadonlyArray<Entry>) => Effect.Effect<void>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Default `scripted`. */
  readonly id?: string | undefined
  readonly defaultModel?: string | undefined
  readonly models?: Readonly<Record<string, string>> | undefined
  /** See `LlmProvider.changes`. */
  readonly changes?: LlmProvider["changes"]
}

const finish: StreamPart & Part = {
  type: "finish",
  reason: "stop",
  usage: { inputTokens: { total: 10 }, outputTokens: { total: 5 } }
}

type Control = Exclude<Element, string | StreamPart>

const isControl = (element: Element): element is Control => typeof element === "object" && !("type" in element)

const errorOf = (id: string, { details, reason }: { readonly details: FailDetails; readonly reason: Reason }) =>
  new ProviderError({
    provider: id,
    reason,
    ...(details.status === undefined ? undefined : { status: details.status }),
    ...(details.shouldRetry === undefined ? undefined : { shouldRetry: details.shouldRetry }),
    ...(details.retryAfter === undefined
      ? undefined
      : { retryAfter: Duration.fromInputUnsafe(details.retryAfter) })
  })

const partOf = (element: string | StreamPart): StreamPart =>
  typeof element === "string" ? { type: "text-delta", id: "0", delta: element } : element

const elementsStream = (id: string, elements: ReadonlyArray<Element>): Stream.Stream<StreamPart, ProviderError> => {
  const streams = elements.map((element): Stream.Stream<StreamPart, ProviderError> => {
    if (!isControl(element)) return Stream.make(partOf(element))
    if ("wait" in element) return Stream.drain(Stream.fromEffect(Effect.sleep(element.wait)))
    if ("error" in element) return Stream.fail(element.error)
    return element.end === "cut" ? Stream.empty : Stream.never
  })
  const last = elements.at(-1)
  const ends = last !== undefined && isControl(last) && !("wait" in last)
  const finished = elements.some((element) =>
    typeof element === "object" && "type" in element && element.type === "finish"
  )
  const all = ends || finished ? streams : [...streams, Stream.make(finish)]
  return all.reduce(
    (before, next) => Stream.concat(before, next),
    Stream.make<Array<StreamPart>>({
      type: "response-metadata",
      id,
      modelId: id
    }) as Stream.Stream<StreamPart, ProviderError>
  )
}

/**
 * Makes a provider that plays `script`, one entry per request, in order; see {@link until} and {@link always} for those that
 * last.
 *
 * **Example** (A failure, then an answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * const program = Effect.gen(function*() {
 *   const provider = yield* ScriptedProvider.make([ScriptedProvider.overloaded, ScriptedProvider.answer("Hello.")])
 *   const ask = provider.generate({ prompt: [{ role: "user", content: "Hi" }] })
 *   return [(yield* Effect.flip(ask)).reason._tag, (yield* ask).length]
 * })
 * await Effect.runPromise(program) // => ["Overloaded", 2]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (script: ReadonlyArray<Entry> = [], options: Options = {}): Effect.Effect<ScriptedProvider> =>
  Effect.clockWith((clock) =>
    Effect.sync(() => {
      const id = options.id ?? "scripted"
      const started = monotonicMillis(clock)
      const entries: Array<Exclude<Entry, { readonly _tag: "Always" }>> = []
      let rest: Play = answer("A scripted answer.")
      const play = (more: ReadonlyArray<Entry>): void => {
        for (const entry of more) {
          if (typeof entry !== "function" && entry._tag === "Always") rest = entry.play
          else entries.push(entry)
        }
      }
      play(script)
      const due = (age: number): Play => {
        while (entries.length > 0) {
          const [first] = entries
          if (typeof first === "function" || first!._tag !== "Until") return entries.shift() as Play
          if (age < first!.millis) return first!.play
          entries.shift()
        }
        return rest
      }
      const requests: Array<Recorded> = []
      let active = 0

      const next = (operation: Recorded["operation"], request: LlmRequest) =>
        Effect.map(Clock.monotonicTimeNanos, (nanos): Step => {
          const at = Number(nanos) / 1e6 - started
          requests.push({ at, operation, request })
          const play = due(at)
          return typeof play === "function" ? play(request) : play
        })
      const entered = Effect.sync(() => {
        active += 1
      })
      const left = (step: Step) =>
        Effect.andThen(
          step.cleanup === undefined ? Effect.void : Effect.sleep(step.cleanup),
          Effect.sync(() => {
            active -= 1
          })
        )
      const delayed = <A, E>(step: Step, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
        step.delay === undefined ? effect : Effect.delay(effect, step.delay)

      const generate = (step: Step): Effect.Effect<ReadonlyArray<Part>, ProviderError> => {
        switch (step._tag) {
          case "Answer":
            return Effect.sync(() =>
              typeof step.output === "string" ? [{ type: "text", text: step.output }, finish] : toParts(step.output)
            )
          case "Fail":
            return Effect.suspend(() => Effect.fail(errorOf(id, step)))
          case "Hang":
            return Effect.never
          case "Die":
            return Effect.die(step.defect)
          case "Stream":
            return Effect.flatMap(
              Stream.runCollect(elementsStream(id, step.elements)),
              (parts) => {
                const end = parts.find((part) => part.type === "finish")
                const { content } = fromAnswer({ parts, target: id, provider: id }, "provider", 0, [])
                return end === undefined
                  ? Effect.fail(
                    new ProviderError({ provider: id, reason: { _tag: "MalformedResponse", problem: TRUNCATED } })
                  )
                  : Effect.succeed([...content, end])
              }
            )
        }
      }
      const open = (step: Step): Stream.Stream<StreamPart, ProviderError> =>
        step._tag === "Stream"
          ? elementsStream(id, step.elements)
          : Stream.unwrap(Effect.map(generate(step), (parts) => Stream.fromIterable(toStreamParts(parts))))

      return {
        id,
        defaultModel: options.defaultModel,
        models: options.models,
        changes: options.changes,
        generate: (request) =>
          Effect.flatMap(next("complete", request), (step) => {
            const served = Effect.acquireUseRelease(entered, () => delayed(step, generate(step)), () => left(step))
            return step.uninterruptible === true ? Effect.uninterruptible(served) : served
          }),
        stream: (request) =>
          Stream.unwrap(Effect.flatMap(next("stream", request), (step) => {
            const opened = Effect.as(
              Effect.andThen(Effect.acquireRelease(entered, () => left(step)), delayed(step, Effect.void)),
              open(step)
            )
            return step.uninterruptible === true ? Effect.uninterruptible(opened) : opened
          })),
        requests: Effect.sync(() => [...requests]),
        active: Effect.sync(() => active),
        play: (...more) => Effect.sync(() => play(more))
      }
    })
  )

/**
 * Defines a tag for a scripted provider:
 * `class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}`, then `Primary.layer([…])`. A test reaches
 * the provider by the same tag: `yield* Primary` has its `requests`, and `play` for what comes next. The provider's id
 * is the last part of the key, `Primary`, unless the layer is given another one.
 *
 * @category services
 * @since 0.1.0
 */
export const Service = <Self>() => <const Id extends string>(id: Id) => {
  const tag = Context.Service<Self, ScriptedProvider>()(id)
  return Object.assign(tag, {
    layer: (script: ReadonlyArray<Entry> = [], options: Options = {}): Layer.Layer<Self> =>
      Layer.effect(tag, make(script, { id: id.slice(id.lastIndexOf("/") + 1), ...options }))
  })
}
