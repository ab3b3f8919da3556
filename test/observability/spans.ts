// A tracer that keeps its spans, and how often each was ended.
import { Cause, Effect, Exit, Option, Tracer } from "effect"

export class Recorded extends Tracer.NativeSpan {
  ends = 0

  override end(time: bigint, exit: Exit.Exit<unknown, unknown>): void {
    this.ends += 1
    super.end(time, exit)
  }

  /** Milliseconds since the epoch. */
  get from(): number {
    return Number(this.status.startTime) / 1e6
  }

  get to(): number | undefined {
    return this.status._tag === "Ended" ? Number(this.status.endTime) / 1e6 : undefined
  }

  get parentName(): string | undefined {
    const parent = Option.getOrUndefined(this.parent)
    return parent?._tag === "Span" ? parent.name : parent?.spanId
  }

  /** How it ended, as backends show it. */
  get how(): "open" | "ok" | "interrupted" | "error" {
    if (this.status._tag === "Started") return "open"
    const { exit } = this.status
    return Exit.isSuccess(exit) ? "ok" : Cause.hasInterruptsOnly(exit.cause) ? "interrupted" : "error"
  }

  get facts(): Readonly<Record<string, unknown>> {
    return Object.fromEntries(this.attributes)
  }

  /** Milliseconds since the span began, name, attributes. */
  get told(): ReadonlyArray<readonly [at: number, name: string, attributes: Readonly<Record<string, unknown>>]> {
    return this.events.map(([name, time, attributes]) => [Number(time) / 1e6 - this.from, name, attributes] as const)
  }

  /** Everything a backend could show. */
  get everything(): string {
    return JSON.stringify([
      this.name,
      this.facts,
      this.told,
      this.links.map(({ attributes, span }) => [attributes, span.spanId, span.traceId]),
      this.status._tag === "Ended" && Exit.isFailure(this.status.exit)
        ? [Cause.pretty(this.status.exit.cause), Cause.prettyErrors(this.status.exit.cause).map(String)]
        : []
    ])
  }
}

export class Recorder {
  readonly spans: Array<Recorded> = []
  readonly tracer = Tracer.make({
    span: (options) => {
      const span = new Recorded(options)
      this.spans.push(span)
      return span
    }
  })
  readonly on = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withTracer(effect, this.tracer)

  named(name: string): ReadonlyArray<Recorded> {
    return this.spans.filter((span) => span.name === name)
  }

  get call(): Recorded {
    const [call, ...others] = this.named("llm.call")
    if (call === undefined || others.length > 0) throw new Error(`${others.length + 1} calls`)
    return call
  }

  get attempts(): ReadonlyArray<Recorded> {
    return this.named("llm.attempt")
  }
}
