/**
 * Certification of a provider: what every provider must do, as checks for your own test runner.
 *
 * @since 0.2.0
 */
import * as Response from "effect/ai/Response"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type LlmConfigError, ProviderError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import * as FaultServer from "./FaultServer.ts"
import { LawBroken } from "./StoreLaws.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A provider in one situation, and what its server sees, where that is known.
 *
 * @category models
 * @since 0.2.0
 */
export interface Scene {
  readonly provider: LlmProvider
  /** Requests that came so far, and those without a finished answer now. */
  readonly traffic?: Effect.Effect<{ readonly received: number; readonly active: number }> | undefined
}

/**
 * What a server is to answer.
 *
 * @category models
 * @since 0.2.0
 */
export interface Answer {
  readonly text: string
  readonly toolCalls: ReadonlyArray<{ readonly name: string; readonly params: object }>
  readonly usage: { readonly inputTokens: number; readonly outputTokens: number }
}

/**
 * What a server is to refuse.
 *
 * @category models
 * @since 0.2.0
 */
export interface Refusal {
  readonly reason: FaultServer.ErrorReason
  /** Seconds. */
  readonly retryAfter?: number | undefined
}

/**
 * A provider to examine: how to have it in each situation, by a scripted server or a stub of its own. A situation that
 * is left out leaves out its laws.
 *
 * @category models
 * @since 0.2.0
 */
export interface Subject<E = never, R = never> {
  /** The server answers so, every time. */
  readonly answering: (answer: Answer) => Effect.Effect<Scene, E, R>
  /** The server refuses so, every time. */
  readonly refusing?: ((refusal: Refusal) => Effect.Effect<Scene, E, R>) | undefined
  /** The server answers with a success status what is no answer, such as a page. */
  readonly garbling?: Effect.Effect<Scene, E, R> | undefined
  /** The server ends its answer after some content, without the protocol's terminal event. */
  readonly breaking?: Effect.Effect<Scene, E, R> | undefined
  /** The server takes the request and sends nothing. */
  readonly hanging?: Effect.Effect<Scene, E, R> | undefined
  /** The server sends some content of a stream, and then nothing. */
  readonly stalling?: Effect.Effect<Scene, E, R> | undefined
}

/**
 * One law: its name, and the check, which fails with what is wrong.
 *
 * @category models
 * @since 0.2.0
 */
export interface ProviderLaw<E = never, R = never> {
  readonly name: string
  readonly check: Effect.Effect<void, E | LawBroken, Exclude<R, Scope.Scope>>
}

// -----------------------------------------------------------------------------
// running a provider
// -----------------------------------------------------------------------------

const request: LlmRequest = {
  prompt: [{ role: "user", content: [{ type: "text", text: "What is AI?" }] }],
  model: "law-1",
  tools: [{ name: "lookup", description: "Looks something up.", parameters: { type: "object", properties: {} } }]
}

type Part = Response.PartEncoded | Response.StreamPartEncoded

interface Outcome {
  readonly parts: ReadonlyArray<Part>
  readonly exit: Exit.Exit<unknown, unknown>
}

type Kind = "generate" | "stream"
const kinds: ReadonlyArray<Kind> = ["generate", "stream"]

const run = (provider: LlmProvider, kind: Kind): Effect.Effect<Outcome> =>
  Effect.suspend(() => {
    const parts: Array<Part> = []
    const call: Effect.Effect<unknown, unknown> = kind === "generate"
      ? Effect.map(provider.generate(request), (all) => {
        for (const part of all) parts.push(part)
      })
      : Stream.runForEach(provider.stream(request), (part) =>
        Effect.sync(() => {
          parts.push(part)
        }))
    return Effect.map(Effect.exit(call), (exit): Outcome => ({ parts, exit }))
  })

const textOf = (parts: ReadonlyArray<Part>): string =>
  parts.map((part) => part.type === "text" ? part.text : part.type === "text-delta" ? part.delta : "").join("")

const callsOf = (parts: ReadonlyArray<Part>): ReadonlyArray<Response.ToolCallPartEncoded> =>
  parts.filter((part) => part.type === "tool-call")

const finishOf = (parts: ReadonlyArray<Part>): Response.FinishPartEncoded | undefined =>
  parts.find((part) => part.type === "finish")

const typesOf = (parts: ReadonlyArray<Part>): ReadonlyArray<string> => parts.map(({ type }) => type)

// Tool calls are checked by hand: their schemas need the toolkit.
const isPart = Schema.is(Schema.toEncoded(Schema.Union([
  Response.TextPart,
  Response.TextStartPart,
  Response.TextDeltaPart,
  Response.TextEndPart,
  Response.ReasoningPart,
  Response.ReasoningStartPart,
  Response.ReasoningDeltaPart,
  Response.ReasoningEndPart,
  Response.ToolParamsStartPart,
  Response.ToolParamsDeltaPart,
  Response.ToolParamsEndPart,
  Response.UrlSourcePart,
  Response.DocumentSourcePart,
  Response.FilePart,
  Response.ResponseMetadataPart,
  Response.FinishPart,
  Response.ErrorPart
])))

const isCount = (count: unknown): boolean =>
  count === undefined || (Number.isSafeInteger(count) && (count as number) >= 0)

/** The text of what a stream did to its blocks, when it is not in order. */
const disorder = (parts: ReadonlyArray<Part>): string | undefined => {
  const open = new Set<string>()
  const seen = new Set<string>()
  for (const part of parts) {
    const [, block, step] = /^(text|reasoning|tool-params)-(start|delta|end)$/.exec(part.type) ?? []
    if (block === undefined || !("id" in part)) continue
    const key = `${block} "${String(part.id)}"`
    if (step === "start" && seen.has(key)) return `${key} starts twice`
    if (step !== "start" && !open.has(key)) return `${key} goes on without a start`
    if (step === "end") open.delete(key)
    else open.add(key)
    seen.add(key)
  }
  const [unclosed] = open
  return unclosed === undefined || finishOf(parts) === undefined ? undefined : `${unclosed} has no end`
}

// -----------------------------------------------------------------------------
// the laws
// -----------------------------------------------------------------------------

type Expect = (step: string, expected: unknown, actual: unknown, kept?: boolean) => Effect.Effect<void, LawBroken>

const answers: Answer = {
  text: "Grüezi, Welt 😀",
  toolCalls: [],
  usage: { inputTokens: 12, outputTokens: 7 }
}
const calling: Answer = {
  text: "",
  toolCalls: [{ name: "lookup", params: { of: "one" } }, { name: "lookup", params: { of: "two" } }],
  usage: { inputTokens: 12, outputTokens: 7 }
}

const refusals: ReadonlyArray<Refusal> = [
  { reason: "RateLimit", retryAfter: 7 },
  { reason: "Overloaded" },
  { reason: "Server" },
  { reason: "Authentication" },
  { reason: "NotFound" },
  { reason: "ContextLength" },
  { reason: "InvalidRequest" }
]

const patience = "2 seconds"

/** Runs until the server has the request, or for a moment where nobody can tell. */
const underWay = (scene: Scene): Effect.Effect<void> => {
  const { traffic } = scene
  if (traffic === undefined) return Effect.sleep("50 millis")
  const wait: Effect.Effect<void> = Effect.flatMap(
    traffic,
    ({ active }) => active > 0 ? Effect.sleep("20 millis") : Effect.andThen(Effect.sleep("5 millis"), wait)
  )
  return Effect.asVoid(Effect.timeoutOption(wait, patience))
}

/** Waits until no request is open, or for a while. Nothing is open where nobody can tell. */
const openAfter = (scene: Scene): Effect.Effect<number> => {
  const { traffic } = scene
  if (traffic === undefined) return Effect.succeed(0)
  const look = (left: number): Effect.Effect<number> =>
    Effect.flatMap(
      traffic,
      ({ active }) =>
        active === 0 || left === 0 ? Effect.succeed(active) : Effect.andThen(Effect.sleep("10 millis"), look(left - 1))
    )
  return look(200)
}

const errorOf = (exit: Exit.Exit<unknown, unknown>): unknown =>
  Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error ?? "a defect" : "success"

const nameOf = (error: unknown): string => error instanceof ProviderError ? "ProviderError" : String(error)

/**
 * The laws of a provider: give it your provider as it is, and its own answers are examined; or a {@link Subject}, and
 * it is driven through refusals, breaks and silence as well. {@link overServer} makes a subject of any provider that
 * speaks a protocol of {@link FaultServer}.
 *
 * **Details**
 *
 * - Whole answers and streams end with one `finish` part, and nothing follows; parts are those of `effect/ai`.
 * - Blocks of a stream are opened, fed and closed, each under an id of its own; ids of tool calls differ within an
 *   answer and from one answer to the next.
 * - Usage is told as the server told it, in whole numbers.
 * - A refusal is one `ProviderError` with the provider's id, the reason and the delay, after one request: no retries.
 * - What makes no sense is a `ProviderError` too, and nothing is thrown. A stream that is cut fails; it has no `finish`.
 * - Interruption ends the call at once and frees the connection, and so does a reader that has enough.
 *
 * A subject is asked to refuse as `RateLimit` (with a delay), `Overloaded`, `Server`, `Authentication`, `NotFound`,
 * `ContextLength` and `InvalidRequest`: as its server words them.
 *
 * **Gotchas**
 *
 * - They take real time: run them with `it.live`, not under `TestClock`.
 *
 * **Example** (A provider of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmProvider } from "effect-resilient-llm"
 * import { providerLaws } from "effect-resilient-llm/testing"
 *
 * const echo = LlmProvider.make({ id: "echo", generate: () => Effect.succeed("Hello.") })
 *
 * // In a test file: for (const { check, name } of providerLaws(echo)) it.live(name, () => check)
 * const broken = Effect.forEach(providerLaws(echo), ({ check }) => Effect.exit(check)).pipe(
 *   Effect.map((exits) => exits.filter((exit) => exit._tag === "Failure").length)
 * )
 * await Effect.runPromise(broken) // => 0
 * ```
 *
 * @category laws
 * @since 0.2.0
 */
export const providerLaws = <E = never, R = never>(
  provider: LlmProvider | Subject<E, R>
): ReadonlyArray<ProviderLaw<E, R>> => {
  const scripted = "answering" in provider
  const subject: Subject<E, R> = scripted ? provider : { answering: () => Effect.succeed({ provider }) }
  const laws: Array<ProviderLaw<E, R>> = []

  const law = (
    name: string,
    scene: Effect.Effect<Scene, E, R> | undefined,
    check: (scene: Scene, expect: Expect) => Effect.Effect<void, LawBroken>
  ): void => {
    if (scene === undefined) return
    const expect: Expect = (step, expected, actual, kept = expected === actual) =>
      kept ? Effect.void : Effect.fail(new LawBroken({ law: name, step, expected, actual }))
    laws.push({
      name,
      check: Effect.scoped(Effect.flatMap(scene, (scene) => check(scene, expect)))
    })
  }

  /** The same of whole answers and streams. */
  const both = (
    name: string,
    scene: Effect.Effect<Scene, E, R> | undefined,
    check: (scene: Scene, kind: Kind, expect: Expect) => Effect.Effect<void, LawBroken>
  ): void =>
    law(name, scene, (scene, expect) => Effect.forEach(kinds, (kind) => check(scene, kind, expect), { discard: true }))

  const answering = subject.answering(answers)

  both(
    "an answer ends with one finish part, and nothing follows",
    answering,
    ({ provider }, kind, expect) =>
      Effect.flatMap(run(provider, kind), ({ exit, parts }) =>
        Effect.andThen(
          expect(kind, "success", nameOf(errorOf(exit))),
          expect(
            kind,
            "one finish, at the end",
            typesOf(parts),
            parts.filter(({ type }) => type === "finish").length === 1 && parts.at(-1)?.type === "finish"
          )
        ))
  )

  both(
    "parts are those of effect/ai",
    answering,
    ({ provider }, kind, expect) =>
      Effect.flatMap(
        run(provider, kind),
        ({ parts }) =>
          Effect.forEach(parts, (part) => expect(kind, "a part", part, part.type === "tool-call" || isPart(part)), {
            discard: true
          })
      )
  )

  law(
    "a stream opens, feeds and closes its blocks, each under an id of its own",
    answering,
    ({ provider }, expect) =>
      Effect.flatMap(run(provider, "stream"), ({ parts }) => expect("stream", undefined, disorder(parts)))
  )

  both(
    "usage is told in whole numbers, as the server told it",
    answering,
    ({ provider }, kind, expect) =>
      Effect.flatMap(run(provider, kind), ({ parts }) => {
        const usage = finishOf(parts)?.usage
        const counts = [...Object.values(usage?.inputTokens ?? {}), ...Object.values(usage?.outputTokens ?? {})]
        const told = { inputTokens: usage?.inputTokens.total, outputTokens: usage?.outputTokens.total }
        const { inputTokens, outputTokens } = answers.usage
        return Effect.andThen(
          expect(kind, "whole numbers", counts, counts.every(isCount)),
          expect(
            kind,
            answers.usage,
            told,
            !scripted || (told.inputTokens === inputTokens && told.outputTokens === outputTokens)
          )
        )
      })
  )

  law("a stream says what the whole answer says", answering, ({ provider }, expect) =>
    Effect.gen(function*() {
      const [whole, streamed] = [yield* run(provider, "generate"), yield* run(provider, "stream")]
      yield* expect("stream", textOf(whole.parts), textOf(streamed.parts))
      if (scripted) yield* expect("generate", answers.text, textOf(whole.parts))
    }))

  both("calls at once do not meet", answering, ({ provider }, kind, expect) =>
    Effect.flatMap(
      Effect.all(Array.from({ length: 4 }, () => run(provider, kind)), { concurrency: "unbounded" }),
      (outcomes) =>
        Effect.forEach(outcomes, ({ parts }) =>
          expect(kind, textOf(outcomes[0]!.parts), textOf(parts), textOf(parts) === textOf(outcomes[0]!.parts)), {
          discard: true
        })
    ))

  both(
    "tool calls have names, parameters, and ids that never repeat",
    scripted ? subject.answering(calling) : answering,
    ({ provider }, kind, expect) =>
      Effect.gen(function*() {
        const first = callsOf((yield* run(provider, kind)).parts)
        const second = callsOf((yield* run(provider, kind)).parts)
        if (scripted) {
          const told = first.map(({ name, params }) => ({ name, params }))
          yield* expect(kind, calling.toolCalls, told, JSON.stringify(told) === JSON.stringify(calling.toolCalls))
        }
        const ids = [...first, ...second].map(({ id }) => id)
        const good = ids.every((id) => typeof id === "string" && id !== "") && new Set(ids).size === ids.length
        yield* expect(kind, "an id for each call", ids, good)
      })
  )

  for (const refusal of subject.refusing === undefined ? [] : refusals) {
    both(`a refusal is one ProviderError, after one request: ${refusal.reason}`, subject.refusing?.(refusal), (
      { provider, traffic },
      kind,
      expect
    ) =>
      Effect.gen(function*() {
        const before = traffic === undefined ? undefined : (yield* traffic).received
        const { exit, parts } = yield* run(provider, kind)
        const error = errorOf(exit)
        if (!(error instanceof ProviderError)) return yield* expect(kind, "ProviderError", nameOf(error))
        yield* expect(kind, provider.id, error.provider)
        yield* expect(kind, refusal.reason, error.reason._tag)
        yield* expect(kind, undefined, finishOf(parts)?.type)
        if (refusal.retryAfter !== undefined) {
          const asked = error.retryAfter
          yield* expect(
            kind,
            `${refusal.retryAfter} s`,
            asked === undefined ? undefined : String(asked),
            asked !== undefined
          )
        }
        if (traffic !== undefined) yield* expect(kind, before! + 1, (yield* traffic).received)
      }))
  }

  both(
    "an answer that makes no sense is one ProviderError",
    subject.garbling,
    ({ provider }, kind, expect) =>
      Effect.flatMap(run(provider, kind), ({ exit, parts }) =>
        Effect.andThen(
          expect(kind, "ProviderError", nameOf(errorOf(exit)), errorOf(exit) instanceof ProviderError),
          expect(kind, "no finish", typesOf(parts), finishOf(parts) === undefined)
        ))
  )

  law(
    "a stream that is cut fails, and has no finish",
    subject.breaking,
    ({ provider }, expect) =>
      Effect.flatMap(run(provider, "stream"), ({ exit, parts }) =>
        Effect.andThen(
          expect("stream", "ProviderError", nameOf(errorOf(exit)), errorOf(exit) instanceof ProviderError),
          expect("stream", "no finish", typesOf(parts), finishOf(parts) === undefined)
        ))
  )

  both(
    "interruption ends the call at once and frees the connection",
    subject.hanging,
    (scene, kind, expect) =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(run(scene.provider, kind))
        yield* underWay(scene)
        const ended = yield* Effect.timeoutOption(Fiber.interrupt(fiber), patience)
        yield* expect(kind, "an end at once", "none", ended._tag === "Some")
        yield* expect(kind, 0, yield* openAfter(scene))
      })
  )

  law("a reader that has enough frees the connection", subject.stalling, (scene, expect) =>
    Effect.gen(function*() {
      const some = Stream.takeUntil(scene.provider.stream(request), ({ type }) => type.endsWith("-delta"))
      const ended = yield* Effect.timeoutOption(Effect.exit(Stream.runDrain(some)), patience)
      yield* expect("stream", "an end at once", "none", ended._tag === "Some")
      yield* expect("stream", 0, yield* openAfter(scene))
    }))

  return laws
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * A subject whose server is {@link FaultServer}, for every provider that speaks one of its protocols. `make` gets the
 * base URL as the vendor's clients want it.
 *
 * **Example** (The provider for OpenAI)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAi } from "effect-resilient-llm/providers"
 * import { ProviderLaws, providerLaws } from "effect-resilient-llm/testing"
 *
 * const laws = providerLaws(
 *   ProviderLaws.overServer("openai", (baseUrl) => OpenAi.make({ baseUrl, apiKey: Redacted.make("key") }))
 * )
 * const first = Effect.provide(laws[0]!.check, FetchHttpClient.layer)
 * await Effect.runPromise(Effect.as(first, laws[0]!.name)) // => "an answer ends with one finish part, and nothing follows"
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const overServer = <E, R>(
  dialect: "openai" | "anthropic" | "cohere" | "bedrock",
  make: (baseUrl: string) => Effect.Effect<LlmProvider, E, R>
): Subject<E | LlmConfigError, R | Scope.Scope> => {
  const scene = (fault: FaultServer.Fault): Effect.Effect<Scene, E | LlmConfigError, R | Scope.Scope> =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      yield* server.always(fault)
      return { provider: yield* make(server[dialect]), traffic: server.stats }
    })
  return {
    answering: ({ text, toolCalls, usage }) =>
      scene(FaultServer.ok({ usage, ...(toolCalls.length === 0 ? { text } : { toolCalls }) })),
    refusing: ({ reason, retryAfter }) => scene(FaultServer.error(reason, { retryAfter })),
    garbling: scene(FaultServer.raw({ body: "<html>Hello.</html>", headers: { "content-type": "text/html" } })),
    breaking: scene(FaultServer.truncate({ afterChunks: 2 })),
    hanging: scene(FaultServer.hang()),
    stalling: scene(FaultServer.stall({ afterChunks: 1 }))
  }
}
