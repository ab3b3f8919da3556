/**
 * The front door: a client that asks one or several providers through the resilient pipeline.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { kindOf } from "./internal/issue.ts"
import type { Restore } from "./internal/line.ts"
import { numbered } from "./internal/names.ts"
import { attempt } from "./internal/option.ts"
import { checkAll, checkTargets, lint, type Options } from "./LlmConfig.ts"
import type {
  AllProvidersFailed,
  AllProvidersUnavailable,
  AttemptTimeout,
  BulkheadFull,
  CircuitOpen,
  DeadlineExceeded,
  IdempotencyConflict,
  IdempotencyInProgress,
  InvalidOutput,
  InvalidRequest,
  LlmError,
  ProviderError,
  RateLimited,
  Shed,
  StreamInterrupted
} from "./LlmError.ts"
import { LlmConfigError, withoutStack } from "./LlmError.ts"
import type { LlmEvent } from "./LlmEvent.ts"
import type * as LlmGuard from "./LlmGuard.ts"
import * as LlmObject from "./LlmObject.ts"
import { watching } from "./LlmObserver.ts"
import type { LlmProvider } from "./LlmProvider.ts"
import * as LlmRequest from "./LlmRequest.ts"
import { fromAnswer, type LlmResponse, type StreamPart } from "./LlmResponse.ts"
import * as Pipeline from "./Pipeline.ts"
import { type Call, ended, failed } from "./pipeline/call.ts"
import type { Check } from "./pipeline/checked.ts"
import { closing } from "./pipeline/closing.ts"
import { makeHub } from "./pipeline/hub.ts"
import { fromScopedPull, Reader } from "./pipeline/reader.ts"
import type { Served } from "./pipeline/stage.ts"
import type { Status, TargetConfig, TargetOptions } from "./pipeline/target.ts"
import type { Bulkhead } from "./resilience/Bulkhead.ts"
import type { CircuitBreaker } from "./resilience/CircuitBreaker.ts"
import type { RateLimiter } from "./resilience/RateLimiter.ts"

export type { Status, TargetOptions, TargetStatus } from "./pipeline/target.ts"

// -----------------------------------------------------------------------------
// errors follow the options
// -----------------------------------------------------------------------------

/** An error leaves the channel only where the option's static type is exactly `false`. */
type IsOff<O, K extends PropertyKey> = K extends keyof O ? [O[K]] extends [Off] ? true : false : false

/** What is in shadow mode refuses nothing. */
type Off = false | { readonly mode: "shadow" }

/** What is off by default comes in only where the option is given. */
type IsGiven<O, K extends PropertyKey> = K extends keyof O ? [O[K]] extends [Off | undefined] ? false : true : false

type Unless<O, K extends PropertyKey, E> = IsOff<O, K> extends true ? never : E

/** A target's own setting, or `undefined` where it has none and the client's counts. */
type OwnOf<X, K extends PropertyKey> = K extends keyof X ? [X[K]] extends [undefined] ? undefined : X[K] : undefined

/** `true` where one target has the pattern on: by its own setting, or by the client's. */
type IsOnAt<X, K extends PropertyKey, Else> = [OwnOf<X, K>] extends [undefined] ? Else
  : [OwnOf<X, K>] extends [Off] ? false
  : true

type AtSome<T extends ReadonlyArray<unknown>, K extends PropertyKey, Else, E> = T[number] extends infer X
  ? X extends unknown ? IsOnAt<X, K, Else> extends false ? never : E : never
  : never

type Not<B> = B extends true ? false : true

/** The throttle stands in front of every target; who may join a line matters where there is one. */
type ShedError<O, T extends ReadonlyArray<unknown>, S> = IsOff<S, "throttle"> extends true
  ? IsOff<S, "thresholds"> extends true ? never
  :
    | Unless<O, "rateLimit", Shed>
    | AtSome<T, "limits", false, Shed>
    | AtSome<T, "bulkhead", IsGiven<O, "bulkhead">, Shed>
  : Shed

type GuardErrors<O> = "guards" extends keyof O
  ? NonNullable<O["guards"]> extends ReadonlyArray<infer G> ? LlmGuard.Error<G> : never
  : never

/**
 * Everything `complete` can fail with under options of type `O` and targets of type `T`: a target with a circuit breaker of
 * its own keeps `CircuitOpen`, although the client's option is `false`.
 *
 * @category models
 * @since 0.1.0
 */
export type CompleteError<O, T extends ReadonlyArray<unknown> = readonly [{}]> =
  | InvalidRequest
  | ProviderError
  | Unless<O, "timeout", AttemptTimeout | DeadlineExceeded>
  | AtSome<T, "circuitBreaker", Not<IsOff<O, "circuitBreaker">>, CircuitOpen>
  | Unless<O, "rateLimit", RateLimited>
  | AtSome<T, "limits", false, RateLimited>
  | AtSome<T, "bulkhead", IsGiven<O, "bulkhead">, BulkheadFull>
  | (IsGiven<O, "loadShedding"> extends true ? ShedError<O, T, O["loadShedding" & keyof O]> : never)
  | Unless<O, "idempotency", IdempotencyConflict | IdempotencyInProgress>
  | Unless<O, "failover", AllProvidersFailed | AllProvidersUnavailable>
  | GuardErrors<O>

/**
 * Everything `stream` can fail with under options of type `O` and targets of type `T`.
 *
 * @category models
 * @since 0.1.0
 */
export type StreamError<O, T extends ReadonlyArray<unknown> = readonly [{}]> = CompleteError<O, T> | StreamInterrupted

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * An open stream: its first content part has arrived.
 *
 * @category models
 * @since 0.1.0
 */
export interface LlmStream<E> {
  /** The parts, first to last. A second consumer goes on where the first one stopped. */
  readonly parts: Stream.Stream<StreamPart, E>
  /**
   * The whole response with ledger and usage. Reads what no consumer of `parts` has read; while one is reading, it
   * waits for it.
   */
  readonly response: Effect.Effect<LlmResponse, E>
}

/**
 * What a client can do. `CE` and `SE` are the failures of `complete` and of streams.
 *
 * @category models
 * @since 0.1.0
 */
export interface Client<out CE, out SE = CE> {
  /** Asks and waits for the whole answer. */
  readonly complete: (input: string | LlmRequest.Input) => Effect.Effect<LlmResponse, CE>
  /**
   * Asks and streams the answer. Until the first content part, failures are retried and failed over like those of
   * `complete`; after it they are final.
   */
  readonly stream: (input: string | LlmRequest.Input) => Stream.Stream<StreamPart, SE>
  /** A stream together with its response. Closing the scope ends the stream. */
  readonly open: (input: string | LlmRequest.Input) => Effect.Effect<LlmStream<SE>, SE, Scope.Scope>
  /**
   * Asks for a value: vendors are given the JSON Schema, each in its own way, and the answer is decoded by the schema. An
   * answer that does not fit is asked for again with the complaint, inside the deadline; it is neither cached nor
   * replayed.
   *
   * **Example** (A value)
   *
   * ```ts import.meta.vitest
   * import { Effect, Layer, Schema } from "effect"
   * import { LlmClient } from "effect-resilient-llm"
   * import { ScriptedProvider } from "effect-resilient-llm/testing"
   *
   * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
   *
   * const Report = Schema.Struct({ city: Schema.String, celsius: Schema.Finite })
   * const program = Effect.gen(function*() {
   *   const client = yield* LlmClient
   *   const { value } = yield* client.generateObject({ prompt: "Berlin has 21 degrees.", schema: Report })
   *   return value.celsius
   * })
   * const live = LlmClient.layer([Vendor]).pipe(Layer.provide(Vendor.layer([
   *   ScriptedProvider.answer(`{ "city": "Berlin", "celsius": "21" }`), // does not fit
   *   ScriptedProvider.answer(`{ "city": "Berlin", "celsius": 21 }`)
   * ])))
   * await Effect.runPromise(Effect.provide(program, live)) // => 21
   * ```
   *
   * @since 0.2.0
   */
  readonly generateObject: <A>(
    input: LlmObject.ObjectInput<A>
  ) => Effect.Effect<LlmObject.ObjectResponse<A>, CE | InvalidOutput>
  /** What happens, as it happens. Bounded: a listener that is too slow misses the oldest events. */
  readonly events: Stream.Stream<LlmEvent>
  /** How the targets, and the bucket they share, are doing. */
  readonly status: Effect.Effect<Status>
}

/**
 * A provider's tag with settings of its own, made by {@link LlmClient.target}.
 *
 * @category models
 * @since 0.1.0
 */
export type Target<I, S extends TargetOptions = TargetOptions> = S & { readonly provider: Context.Key<I, LlmProvider> }

/**
 * One entry of the failover order: a provider's tag, or a target.
 *
 * @category models
 * @since 0.1.0
 */
export type TargetInput = Context.Key<unknown, LlmProvider> | Target<unknown>

/**
 * One entry of a failover order that is known only at run time.
 *
 * @category models
 * @since 0.1.0
 */
export type DynamicTarget = LlmProvider | TargetOptions & { readonly provider: LlmProvider }

/**
 * The options of a client: those of its patterns, and guards of your own. `GE` is what the guards refuse with.
 *
 * @category models
 * @since 0.2.0
 */
export interface ClientOptions<out GE = LlmError> extends Options {
  /** Asked in this order before each attempt, before anything else is held; see `LlmGuard`. Default: none. */
  readonly guards?: ReadonlyArray<LlmGuard.Guard<GE>> | undefined
}

/** The services that a list of targets needs. */
type Needs<T extends ReadonlyArray<TargetInput>> = T[number] extends infer One
  ? One extends Target<infer I> ? I : One extends Context.Key<infer I, LlmProvider> ? I : never
  : never

type Targets = readonly [TargetInput, ...ReadonlyArray<TargetInput>]

/** Refuses names that do not exist, of patterns and of their options, also in a value whose type was inferred. */
type Known<O> =
  & O
  & {
    readonly [K in keyof O]: K extends keyof ClientOptions<unknown>
      ? K extends "guards" ? unknown : KnownIn<O[K], Exclude<ClientOptions<unknown>[K], Value>>
      : never
  }
type Value = RateLimiter | CircuitBreaker | Bulkhead
type KnownIn<P, A> = P extends Value ? unknown
  : P extends object ? { readonly [K in keyof P as Unknown<K, A>]: never }
  : unknown
type Unknown<K, A> = string extends K ? never : K extends keyof Extract<A, object> ? never : K

// -----------------------------------------------------------------------------
// construction
// -----------------------------------------------------------------------------

type Unnamed = TargetOptions & { readonly provider: LlmProvider }

/** Untyped callers can pass anything: the first that is no target is refused. */
const eachOf = <A extends ReadonlyArray<unknown>>(
  targets: A,
  rule: string,
  isUsable: (target: A[number]) => boolean
): Effect.Effect<A, LlmConfigError> => {
  if (!Array.isArray(targets)) return refused("targets", "a list of targets", targets)
  const wrong = targets.findIndex((target) => !isUsable(target))
  return wrong < 0 ? Effect.succeed(targets) : refused(`targets[${wrong}]`, rule, targets[wrong])
}
const refused = (path: string, rule: string, value: unknown): Effect.Effect<never, LlmConfigError> =>
  Effect.suspend(() => Effect.fail(new LlmConfigError({ path, rule, kind: kindOf(value) })))

const isProvider = (provider: LlmProvider | undefined): boolean =>
  typeof provider?.id === "string" && provider.id !== "" &&
  typeof provider.generate === "function" && typeof provider.stream === "function"

const unnamed = (input: DynamicTarget): Unnamed =>
  typeof input === "object" && input !== null && "provider" in input ? input : { provider: input }

const usable = (targets: ReadonlyArray<DynamicTarget>): Effect.Effect<ReadonlyArray<TargetConfig>, LlmConfigError> =>
  Effect.map(
    eachOf(targets, "a provider: an id, generate and stream", (target) => isProvider(unnamed(target).provider)),
    (all) => named(all.map(unnamed))
  )

/** Targets have the names of their vendors. One that differs in nothing from another gets no number: it is refused. */
const named = (targets: ReadonlyArray<Unnamed>): ReadonlyArray<TargetConfig> => {
  const names = numbered(targets.map(({ id, provider }) => ({ given: id, name: provider.id })))
  return targets.map((target, i) => {
    const isAgain = Object.keys(target).length === 1 && targets.findIndex((one) => one.provider === target.provider) < i
    return { ...target, id: isAgain ? target.provider.id : names[i]! }
  })
}

const isTarget = (input: TargetInput): input is Target<unknown> => !Context.isKey(input)

const resolve = (inputs: Targets): Effect.Effect<ReadonlyArray<TargetConfig>, LlmConfigError, unknown> =>
  eachOf(
    inputs,
    "the service of a provider, or target(service)",
    (input) => Context.isKey(input) || Context.isKey(input?.provider)
  ).pipe(
    Effect.flatMap(Effect.forEach((input) => {
      const { provider: tag, ...settings } = isTarget(input) ? input : { provider: input }
      return Effect.map(tag, (provider): Unnamed => ({ ...settings, provider }))
    })),
    Effect.flatMap(usable)
  )

/** Those that can be asked. Fails when there is none, because each lacks something. */
const present = (targets: ReadonlyArray<TargetConfig>): Effect.Effect<ReadonlyArray<TargetConfig>, LlmConfigError> =>
  Effect.gen(function*() {
    const away = targets.flatMap(({ id, provider: { missing } }) => missing === undefined ? [] : [{ id, missing }])
    if (away.length > 0 && away.length === targets.length) {
      const path = [...new Set(away.map(({ missing }) => missing))].join(" or ")
      return yield* withoutStack(() => new LlmConfigError({ path, rule: "set", kind: "missing" }))
    }
    for (const { id, missing } of away) yield* Effect.logInfo(`${id} is left out: ${missing} is not set.`)
    return targets.filter(({ provider }) => provider.missing === undefined)
  })

type CompleteFailure<GE> = Pipeline.PipelineError<GE> | InvalidRequest

const fromTargets = <GE>(
  given: ReadonlyArray<TargetConfig>,
  all: ClientOptions<GE>
): Effect.Effect<Client<CompleteFailure<GE>, CompleteFailure<GE> | StreamInterrupted>, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    type Failure = CompleteFailure<GE>
    const hub = yield* makeHub()
    yield* attempt(() => checkTargets(given))
    const targets = yield* present(given)
    const { guards = [], ...options } = yield* checkAll(all)
    const pipeline: Pipeline.Pipeline<Failure> = yield* Pipeline.make(
      targets as Pipeline.Order,
      options,
      guards,
      hub
    )
    for (const { fix, id, reason, severity } of yield* lint(targets, options)) {
      if (severity === "warning") yield* Effect.logWarning(`${id}: ${reason} ${fix}`)
    }
    const observed = {
      targets: targets.map(({ id, provider }) => ({ id, provider: provider.id })),
      status: pipeline.status
    }
    const watch = yield* watching(observed, hub.listen)
    /** Begins a call, when all have heard that there is one who are to hear of it. */
    const watched = <A, E>(
      begin: (caller: Fiber.Fiber<unknown, unknown>, restore: Restore) => Effect.Effect<A, E>
    ): Effect.Effect<A, E> =>
      Effect.uninterruptibleMask((restore) => {
        // One that runs this, so there is one.
        const caller = Fiber.getCurrent()!
        const first = watch(caller.context)
        return first === undefined ? begin(caller, restore) : Effect.flatMap(first, () => begin(caller, restore))
      })
    yield* Effect.contextWith((context: Context.Context<never>) => watch(context) ?? Effect.void)

    // A client that ends takes its calls along: what they wait for, and the scopes of open streams.
    const streams = new Set<Scope.Closeable>()
    yield* Effect.addFinalizer((exit) =>
      Effect.forEach(streams, (scope) => Scope.close(scope, exit), { discard: true })
    )
    const closable = yield* closing

    const complete = (input: string | LlmRequest.Input, check?: Check): Effect.Effect<LlmResponse, Failure> =>
      watched((caller, restore) => {
        const request = LlmRequest.read(input)
        if ("_tag" in request) return Effect.fail(request)
        const call = pipeline.begin(caller, "complete", request, undefined)
        call.root.check = check
        return closable(caller, restore, pipeline.run(call), (exit) => concluded(call, exit))
      })

    const concluded = (call: Call, exit: Exit.Exit<Served, Failure>): Effect.Effect<LlmResponse, Failure> => {
      if (Exit.isSuccess(exit)) {
        const { age, answer, source } = exit.value
        ended(call, source)
        return Effect.succeed(fromAnswer(answer, source, age, [...call.root.events]))
      }
      const error = Cause.findErrorOption(exit.cause)
      if (error._tag === "Some") return Effect.fail(failed(call, error.value))
      closed(call, exit.cause)
      return Effect.failCause(exit.cause as Cause.Cause<never>)
    }

    const generateObject = <A>(
      input: LlmObject.ObjectInput<A>
    ): Effect.Effect<LlmObject.ObjectResponse<A>, Failure | InvalidOutput> =>
      Effect.suspend((): Effect.Effect<LlmObject.ObjectResponse<A>, Failure | InvalidOutput> => {
        const asked = LlmObject.fromInput(input)
        if ("_tag" in asked) return Effect.fail(asked)
        return Effect.flatMap(complete(asked.input, asked.check), (response) => {
          const read = asked.read(response)
          return "_tag" in read ? Effect.fail(read) : Effect.succeed(read)
        })
      })

    type Reading = Reader<Failure | StreamInterrupted>
    const open = (input: string | LlmRequest.Input): Effect.Effect<Reading, Failure, Scope.Scope> =>
      Effect.flatMap(
        LlmRequest.make(input),
        (request) =>
          watched((caller, restore) => {
            // Closed when the stream has ended, else with the scope it was opened in.
            const outer = Context.get(caller.context as Context.Context<Scope.Scope>, Scope.Scope)
            const scope = Scope.forkUnsafe(outer)
            const call = pipeline.begin(caller, "stream", request, scope)
            const asked = Effect.suspend(() => closable(caller, restore, pipeline.run(call), (exit) => exit))
            const opened = Effect.mapBoth(asked, {
              onSuccess: (served): Reading => new Reader(call, served, scope),
              onFailure: (error) => failed(call, error)
            }).pipe(Effect.tap(({ abandoned }) => Scope.addFinalizer(scope, abandoned)))
            streams.add(scope)
            const end = (exit: Exit.Exit<unknown, unknown>) =>
              Effect.sync(() => {
                streams.delete(scope)
                closed(call, Exit.isFailure(exit) ? exit.cause : Cause.empty)
              })
            return Effect.andThen(
              Scope.addFinalizerExit(scope, end),
              Effect.onExit(opened, (exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit))
            )
          })
      )

    return {
      complete: (input) => complete(input),
      generateObject,
      open,
      stream: (input) => fromScopedPull(Effect.map(open(input), ({ chunk }) => chunk)),
      events: hub.events,
      status: pipeline.status
    }
  })

/** Closes the books of a call, if nothing else did. */
const closed = (call: Call, cause: Cause.Cause<unknown>): void =>
  ended(call, Cause.hasDies(cause) ? "defect" : "interrupted")

const ID = "effect-resilient-llm/LlmClient"

const classOf =
  <Self>() =>
  <const Id extends string, const T extends Targets, const O extends ClientOptions<unknown> = {}>(
    id: Id,
    targets: T,
    options?: ClientOptions<unknown> & Known<O>
  ): ServiceClass<Self, Id, T, O> => {
    const tag = Context.Service<Self, Client<CompleteError<O, T>, StreamError<O, T>>>()(id)
    return Object.assign(tag, { layer: Layer.effect(tag, LlmClient.make<T, O>(targets, options)) })
  }

/**
 * The tag of {@link LlmClient}, with the way to make others like it.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClientClass extends Context.Key<LlmClient, Client<LlmError>> {
  new(_: never): Context.ServiceClass.Shape<typeof ID, Client<LlmError>>
  readonly key: typeof ID
  readonly of: (self: Client<LlmError>) => Client<LlmError>
  readonly context: (self: Client<LlmError>) => Context.Context<LlmClient>
  /**
   * A client tag of your own, with exactly the failures that its options leave.
   *
   * **Example** (A chat service without a circuit breaker)
   *
   * ```ts import.meta.vitest
   * import { Effect, Layer } from "effect"
   * import { LlmClient } from "effect-resilient-llm"
   * import { ScriptedProvider } from "effect-resilient-llm/testing"
   *
   * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
   * class Chat extends LlmClient.Class<Chat>()("app/Chat", [Vendor], { circuitBreaker: false }) {}
   *
   * const live = Layer.provide(Chat.layer, Vendor.layer([ScriptedProvider.answer("Hello.")]))
   * const program = Effect.flatMap(Chat, (chat) => chat.complete("Hi"))
   * const response = await Effect.runPromise(Effect.provide(program, live))
   * response.text // => "Hello."
   * ```
   */
  readonly Class: typeof classOf
}

const Base = Object.assign(Context.Service<LlmClient, Client<LlmError>>()(ID), {
  Class: classOf
}) as unknown as ClientClass

/**
 * The client as a service. As one tag serves every configuration, its failures are all of `LlmError`; use
 * {@link LlmClient.Class} or {@link LlmClient.make} for exactly the failures your options leave.
 *
 * **Example** (Two providers)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}
 * class Secondary extends ScriptedProvider.Service<Secondary>()("app/Secondary") {}
 *
 * const live = LlmClient.layer([Primary, Secondary], { retry: false }).pipe(
 *   Layer.provide(Primary.layer([ScriptedProvider.fail({ _tag: "Overloaded" })])),
 *   Layer.provide(Secondary.layer([ScriptedProvider.answer("Artificial intelligence.")]))
 * )
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient
 *   const response = yield* client.complete("What is AI?")
 *   return [response.text, response.target]
 * })
 * await Effect.runPromise(Effect.provide(program, live)) // => ["Artificial intelligence.", "Secondary"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class LlmClient extends Base {
  /**
   * A client over the given targets, in failover order. Needs the providers you name.
   *
   * **Gotchas**
   *
   * Breakers, buckets and caches live in the layer. Bind it to a constant and provide it once; a layer built per call
   * remembers nothing.
   */
  static layer<const T extends Targets, const O extends ClientOptions = {}>(
    targets: T,
    options?: ClientOptions & Known<O>
  ): Layer.Layer<LlmClient, LlmConfigError, Needs<T>> {
    return Layer.effect(LlmClient, LlmClient.make<T, ClientOptions>(targets, options))
  }

  /**
   * Like {@link LlmClient.layer}, with options from configuration: `LlmConfig.config`, or any other effect or `Config`
   * that gives options.
   */
  static layerConfig<const T extends Targets, E = never, R = never>(
    targets: T,
    options: Effect.Effect<ClientOptions, E, R> | Config.Config<Options>
  ): Layer.Layer<LlmClient, LlmConfigError | E, Needs<T> | R> {
    return Layer.effect(
      LlmClient,
      Effect.flatMap(options as Effect.Effect<ClientOptions, E, R>, (read) => LlmClient.make(targets, read))
    )
  }

  /** A client over provider values, for lists that are known only at run time. */
  static layerDynamic<const O extends ClientOptions = {}>(
    targets: readonly [DynamicTarget, ...ReadonlyArray<DynamicTarget>],
    options?: ClientOptions & Known<O>
  ): Layer.Layer<LlmClient, LlmConfigError> {
    return Layer.effect(
      LlmClient,
      Effect.flatMap(usable(targets), (configs) => fromTargets<LlmError>(configs, options === undefined ? {} : options))
    )
  }

  /** A provider's tag with settings of its own: id, models, limits, breaker. */
  static target<I>(provider: Context.Key<I, LlmProvider>): Target<I, {}>
  static target<I, const S extends TargetOptions>(provider: Context.Key<I, LlmProvider>, settings: S): Target<I, S>
  static target<I>(provider: Context.Key<I, LlmProvider>, settings: TargetOptions = {}): Target<I> {
    return { ...settings, provider }
  }

  /** A client as a value, with exactly the failures that its options and targets leave. Its state ends with the scope. */
  static make<const T extends Targets, const O extends ClientOptions<unknown> = {}>(
    targets: T,
    options?: ClientOptions<unknown> & Known<O>
  ): Effect.Effect<Client<CompleteError<O, T>, StreamError<O, T>>, LlmConfigError, Needs<T> | Scope.Scope>
  // The one place where what the compiler finds for all options is narrowed to those that are given: type tests hold it
  // equal to the public union, and a test of all toggles holds it to its word.
  static make<GE>(
    targets: Targets,
    options: ClientOptions<GE> = {}
  ): Effect.Effect<Client<CompleteFailure<GE>, CompleteFailure<GE> | StreamInterrupted>, LlmConfigError, unknown> {
    return Effect.flatMap(resolve(targets), (configs) => fromTargets(configs, options))
  }
}

/**
 * What {@link LlmClient.Class} returns: a tag and its layer.
 *
 * @category models
 * @since 0.1.0
 */
export type ServiceClass<Self, Id extends string, T extends ReadonlyArray<TargetInput>, O> =
  & Context.ServiceClass<Self, Id, Client<CompleteError<O, T>, StreamError<O, T>>>
  & { readonly layer: Layer.Layer<Self, LlmConfigError, Needs<T>> }
