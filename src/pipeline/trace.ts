// The spans of one call: a view of its events. What they say is written down in observability/Tracing.ts.
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Tracer from "effect/Tracer"
import { attributesOf, Content, errorType, OTHER, providerName, type Redactor, snake } from "../internal/attributes.ts"
import type { ErrorSummary, LlmEvent } from "../LlmEvent.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Answer } from "../LlmResponse.ts"
import { inputMessages, outputMessages, quote } from "./content.ts"

export interface Trace {
  readonly on: (event: LlmEvent) => void
  /** Runs what an attempt asks its provider below the attempt's span. */
  readonly within: <A, E, R>(attempt: number, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Told before the event that says that the attempt succeeded. */
  readonly answered: (attempt: number, answer: Answer) => void
  /** What another call needs to point at this one; small, as it is kept with the answer. */
  readonly reference: () => Tracer.ExternalSpan | undefined
  /** This call waited for the work of another one. */
  readonly joined: (leader: Tracer.ExternalSpan) => void
}

/** `undefined` while no tracer is installed. `providers` names the provider of each target. */
export const traceOf = (
  fiber: Fiber.Fiber<unknown, unknown>,
  operation: "complete" | "stream",
  request: LlmRequest,
  providers: ReadonlyMap<string, string>
): Trace | undefined => {
  const { tracer, tracerEnabled } = fiber.cache
  return tracer === undefined || !tracerEnabled
    ? undefined
    : new CallTrace(fiber, tracer, operation, request, providers)
}

type Attributes = Readonly<Record<string, unknown>>
type Of<Tag extends LlmEvent["_tag"]> = Extract<LlmEvent, { readonly _tag: Tag }>

class CallTrace implements Trace {
  private readonly tracer: Tracer.Tracer
  private readonly context: Context.Context<never>
  private readonly operation: "complete" | "stream"
  private readonly request: LlmRequest
  private readonly providers: ReadonlyMap<string, string>
  private readonly redact: Redactor | undefined
  private readonly sampled: boolean
  /** Wall clock when the call began; `undefined` while timing is off. All other times are this and the event's own. */
  private readonly startedAt: bigint | undefined
  private readonly call: Tracer.Span | undefined
  /** Those that have not ended yet. */
  private readonly attempts = new Map<number, Tracer.Span>()
  private retry: Of<"RetryScheduled"> | undefined
  private broken = false

  constructor(
    fiber: Fiber.Fiber<unknown, unknown>,
    tracer: Tracer.Tracer,
    operation: "complete" | "stream",
    request: LlmRequest,
    providers: ReadonlyMap<string, string>
  ) {
    this.tracer = tracer
    this.context = fiber.context
    this.operation = operation
    this.request = request
    this.providers = providers
    this.redact = fiber.getRef(Content)
    this.startedAt = fiber.getRef(References.TracerTimingEnabled)
      ? fiber.getRef(Clock.Clock).currentTimeNanosUnsafe()
      : undefined
    const parent = propagating(fiber.cache.span)
    this.sampled = parent?.sampled !== false &&
      !LogLevel.isGreaterThan(fiber.getRef(References.MinimumTraceLevel), fiber.getRef(References.CurrentTraceLevel))
    this.call = this.guarded(() => {
      const span = this.start("llm.call", "internal", 0, parent, [...fiber.getRef(References.TracerSpanLinks)])
      set(span, fiber.getRef(References.TracerSpanAnnotations))
      return span
    })
  }

  on(event: LlmEvent): void {
    this.guarded(() => this.record(event))
  }

  within<A, E, R>(attempt: number, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    const span = this.attempts.get(attempt)
    if (span === undefined) return effect
    const tracer = discreet(this.tracer)
    return Effect.updateContext(
      effect,
      (context: Context.Context<R>) => Context.add(Context.add(context, Tracer.ParentSpan, span), Tracer.Tracer, tracer)
    )
  }

  answered(attempt: number, answer: Answer): void {
    this.guarded(() => {
      const span = this.attempts.get(attempt)
      if (span === undefined) return
      span.attribute("gen_ai.provider.name", providerName(answer.provider))
      for (const part of answer.parts) {
        if (part.type === "response-metadata") {
          if (part.id !== undefined) span.attribute("gen_ai.response.id", part.id)
          if (part.modelId !== undefined) span.attribute("gen_ai.response.model", part.modelId)
        } else if (part.type === "finish") {
          span.attribute("gen_ai.response.finish_reasons", [part.reason.replaceAll("-", "_")])
        }
      }
      const { redact } = this
      if (redact !== undefined) quote(span, "gen_ai.output.messages", () => outputMessages(answer, redact))
    })
  }

  reference(): Tracer.ExternalSpan | undefined {
    return this.guarded(() => this.call === undefined ? undefined : Tracer.externalSpan(this.call))
  }

  joined(leader: Tracer.ExternalSpan): void {
    this.guarded(() => this.call?.addLinks([{ span: leader, attributes: { "llm.link": "joined" } }]))
  }

  // --- events ----------------------------------------------------------------

  private record(event: LlmEvent): void {
    const { call } = this
    if (call === undefined) return
    switch (event._tag) {
      case "CallStarted":
        call.attribute("llm.call", event.call)
        return set(call, attributesOf(event))
      case "CallEnded":
        set(call, attributesOf(event))
        return this.end(call, event.at, event.outcome, event.error)
      case "AttemptStarted":
        return this.begin(event, call)
      case "AttemptCommitted": {
        const span = this.attempts.get(event.attempt)
        span?.event("llm.attempt_committed", this.time(event.at), attributesOf(event))
        return span?.attribute("gen_ai.response.time_to_first_chunk", event.duration / 1000)
      }
      case "AttemptSucceeded":
        return this.endAttempt(event, "success")
      case "AttemptFailed":
        return this.endAttempt(event, event.outcome, event.error)
      case "AttemptInterrupted":
        return this.endAttempt(event, event.by === "caller" ? "interrupted" : event.by)
      case "RetryScheduled":
        this.retry = event
        break
    }
    call.event(`llm.${snake(event._tag)}`, this.time(event.at), attributesOf(event))
  }

  private begin(event: Of<"AttemptStarted">, parent: Tracer.Span): void {
    const { redact, request, retry } = this
    const span = this.start("llm.attempt", "client", event.at, parent, [])
    this.attempts.set(event.attempt, span)
    span.attribute("gen_ai.operation.name", "chat")
    const provider = this.providers.get(event.target)
    set(span, {
      "gen_ai.provider.name": provider === undefined ? undefined : providerName(provider),
      "gen_ai.request.model": event.model,
      "gen_ai.request.stream": this.operation === "stream" ? true : undefined,
      "gen_ai.request.temperature": request.temperature,
      "gen_ai.request.top_p": request.topP,
      "gen_ai.request.max_tokens": request.maxTokens,
      "gen_ai.request.seed": request.seed,
      "gen_ai.output.type": request.responseFormat?.type,
      "llm.target": event.target,
      "llm.attempt": event.attempt
    })
    if (retry !== undefined && retry.target === event.target && retry.attempt === event.attempt - 1) {
      set(span, { "llm.retry.delay": retry.delay, "llm.retry.reason": errorType(retry.error) })
    }
    if (redact === undefined) return
    quote(span, "gen_ai.input.messages", () => inputMessages(request.prompt, redact))
    const { stop } = request
    if (stop !== undefined) quote(span, "gen_ai.request.stop_sequences", () => stop.map(redact))
  }

  private endAttempt(
    event: Of<"AttemptSucceeded"> | Of<"AttemptFailed"> | Of<"AttemptInterrupted">,
    outcome: string,
    error?: ErrorSummary
  ): void {
    const span = this.attempts.get(event.attempt)
    if (span === undefined) return
    this.attempts.delete(event.attempt)
    set(span, attributesOf(event))
    span.attribute("llm.outcome", outcome)
    this.end(span, event.at, outcome, error)
  }

  // --- spans -----------------------------------------------------------------

  private start(
    name: string,
    kind: Tracer.SpanKind,
    at: number,
    parent: Tracer.AnySpan | undefined,
    links: Array<Tracer.SpanLink>
  ): Tracer.Span {
    return this.tracer.span({
      name,
      kind,
      links,
      parent: Option.fromUndefinedOr(parent),
      annotations: Context.empty(),
      startTime: this.time(at),
      root: false,
      sampled: this.sampled
    })
  }

  private end(span: Tracer.Span, at: number, outcome: string, error: ErrorSummary | undefined): void {
    if (outcome === "defect") span.attribute("error.type", OTHER)
    span.end(this.time(at), exitOf(outcome, error))
  }

  private time(at: number): bigint {
    return this.startedAt === undefined ? BigInt(0) : this.startedAt + BigInt(Math.round(at * 1e6))
  }

  /** A tracer that throws is reported once; the call goes on, without it. */
  private guarded<A>(use: () => A): A | undefined {
    if (this.broken) return undefined
    try {
      return use()
    } catch (error) {
      this.broken = true
      this.attempts.clear()
      Effect.runForkWith(this.context)(Effect.logWarning("The tracer threw and is told nothing more", Cause.die(error)))
      return undefined
    }
  }
}

/** The nearest span that may have children, as `Effect.withSpan` finds it. */
const propagating = (span: Tracer.AnySpan | undefined): Tracer.AnySpan | undefined => {
  let nearest = span
  while (nearest !== undefined && Context.get(nearest.annotations, Tracer.DisablePropagation)) {
    nearest = nearest._tag === "Span" ? Option.getOrUndefined(nearest.parent) : undefined
  }
  return nearest
}

const set = (span: Tracer.Span, attributes: Attributes): void => {
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) span.attribute(key, value)
}

const exitOf = (outcome: string, error: ErrorSummary | undefined): Exit.Exit<unknown, unknown> => {
  if (outcome === "interrupted" || outcome === "lost") return Exit.interrupt()
  if (outcome === "defect") return Exit.die({ name: OTHER, message: "a bug" })
  if (error === undefined) return Exit.void
  const name = errorType(error)
  return Exit.fail({ name, message: error.status === undefined ? name : `${name} (HTTP ${error.status})` })
}

/**
 * The same tracer for what a provider does: its spans keep neither addresses nor headers nor messages of errors, because
 * all of them can hold keys and prompts.
 */
const discreet = (tracer: Tracer.Tracer): Tracer.Tracer =>
  Tracer.make({
    context: tracer.context,
    span: (options) => {
      const span = tracer.span(options)
      const attribute = span.attribute.bind(span)
      const end = span.end.bind(span)
      // In place: tracers know their own spans by their class.
      return Object.assign<Tracer.Span, Pick<Tracer.Span, "attribute" | "end">>(span, {
        attribute: (key, value) => isPrivate(key) ? undefined : attribute(key, value),
        end: (time, exit) => end(time, withoutValues(exit))
      })
    }
  })

const isPrivate = (key: string): boolean =>
  (key.startsWith("url.") && key !== "url.scheme") || /^http\.\w+\.header\./.test(key)

const withoutValues = (exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> => {
  if (Exit.isSuccess(exit)) return Exit.void
  if (Cause.hasInterruptsOnly(exit.cause)) return exit
  const error: unknown = Cause.squash(exit.cause)
  const tagged = typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : OTHER
  return Exit.fail({ name: tagged, message: tagged })
}
