// The main job: one question, one answer, and on request everything that happened on the way.
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Path from "effect/Path"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type * as Terminal from "effect/Terminal"
import { type Client, LlmClient } from "../LlmClient.ts"
import * as LlmConfig from "../LlmConfig.ts"
import { type InvalidOutput, type LlmConfigError, type LlmError, summary, withoutWords } from "../LlmError.ts"
import type * as LlmRequest from "../LlmRequest.ts"
import type { LlmResponse } from "../LlmResponse.ts"
import * as DispatcherHttpClient from "../node/DispatcherHttpClient.ts"
import * as StateConfig from "../persistence/Config.ts"
import { details, explain, Failed, render } from "./failures.ts"
import * as Input from "./input.ts"
import * as Progress from "./progress.ts"
import { duration, json, ledger } from "./render.ts"
import { type Device, type Devices, devices, printable } from "./terminal.ts"
import {
  baseUrlVariable,
  choose,
  keyVariable,
  keyVariables,
  type MissingKey,
  NoKeys,
  type VendorId
} from "./vendors.ts"

export interface Options {
  /** `-` is standard input; what is piped in comes behind any other prompt. */
  readonly prompt: string | undefined
  readonly model: string | undefined
  readonly provider: ReadonlyArray<VendorId>
  readonly stream: boolean
  readonly system: string | undefined
  /** Paths of images and documents. */
  readonly file: ReadonlyArray<string>
  /** Path of the JSON Schema that the answer has to fit. */
  readonly object: string | undefined
  readonly deadline: Duration.Duration | undefined
  /** Where answers and limits are shared: as `LLM_STATE`, which it goes before. */
  readonly state: string | undefined
  readonly json: boolean
  readonly verbose: boolean
}

type CallError = LlmError | InvalidOutput
type AskError = CallError | LlmConfigError | MissingKey | NoKeys | Input.InputError | Config.ConfigError

export const ask = (
  options: Options
): Effect.Effect<void, Failed, Stdio.Stdio | Terminal.Terminal | FileSystem.FileSystem | Path.Path> =>
  Effect.flatMap(devices, (devices) =>
    Effect.catch(
      Effect.scoped(Effect.provide(answer(options, devices), DispatcherHttpClient.layerAgent())),
      (error) => Effect.andThen(report(error, options, devices), Effect.fail(new Failed()))
    ))

const answer = (options: Options, { err, out }: Devices) =>
  Effect.gen(function*() {
    const request = yield* requestOf(options, err)
    const format = options.object === undefined ? undefined : yield* Input.format(options.object)
    const { providers, simulated } = yield* choose(options.provider, options.model)
    if (simulated && format !== undefined) return yield* new NoKeys()
    if (simulated) yield* err.write(`No ${keyVariables}: ${err.paint("warn", "the answer is simulated")}\n`)
    const [first, ...others] = providers
    // One process, one question: nobody would read a cache. What is shared with other processes is what is paid for.
    const given = yield* Config.option(Config.schema(Schema.String, "LLM_STATE"))
    const derive = options.state === undefined && Option.isNone(given) ? false : "replay"
    const state = options.state === undefined ? StateConfig.layerConfig() : StateConfig.layer(options.state)
    const settings = yield* LlmConfig.config
    const idempotency = settings.idempotency !== false && { derive, ...settings.idempotency } as const
    const layer = Layer.provide(
      LlmClient.layerDynamic([first, ...others], { ...settings, cache: false, idempotency }),
      state
    )
    const client = Context.get(yield* Layer.build(layer), LlmClient)

    const live = options.stream && !options.json && format === undefined
    const { response, value } = yield* format !== undefined
      ? asking(client, err, client.generateObject({ ...request, schema: format }))
      : Effect.map(
        live ? streamed(client, request, out, err) : asking(client, err, whole(client, request, options.stream)),
        (response) => ({ response, value: undefined })
      )
    const ofObject = format === undefined ? undefined : { value }
    if (options.json) {
      yield* out.write(document({ ...fields(response), ...ofObject, simulated, ledger: response.ledger }))
    } else if (format !== undefined) yield* out.write(document(value))
    else if (!live) yield* out.write(`${shown(out, response.text)}\n`)

    if (response.finishReason === "length") {
      yield* err.write(`${err.paint("warn", "The answer is cut:")} the model reached its token limit.\n`)
    }
    if (options.verbose) yield* err.write(`\n${ledger(response.ledger, err.paint)}\n`)
    else if (err.canAnimate) yield* err.write(`${err.paint("quiet", footer(response))}\n`)
  })

const fields = ({ finishReason, model, provider, source, target, text, usage }: LlmResponse) => ({
  text,
  source,
  provider,
  target,
  model,
  usage,
  finishReason
})

const document = (value: unknown): string => `${json(value)}\n`

const requestOf = (
  { deadline, file, model, prompt, system }: Options,
  err: Device
): Effect.Effect<LlmRequest.Input, Input.InputError, Stdio.Stdio | FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const files = yield* Input.attachments(file)
    const text = yield* Input.question(prompt, err)
    return {
      prompt: files.length === 0
        ? text
        : [{ role: "user", content: [...(text === "" ? [] : [{ type: "text" as const, text }]), ...files] }],
      system,
      model,
      deadline
    }
  })

/** The whole answer at once; `stream` decides only how it is fetched. */
const whole = (
  client: Client<LlmError>,
  request: LlmRequest.Input,
  stream: boolean
): Effect.Effect<LlmResponse, LlmError> =>
  stream ? Effect.scoped(Effect.flatMap(client.open(request), ({ response }) => response)) : client.complete(request)

const asking = <A>(
  client: Client<LlmError>,
  err: Device,
  answer: Effect.Effect<A, CallError>
): Effect.Effect<A, CallError> => Effect.scoped(Effect.andThen(Progress.start(err, "asking", client.events), answer))

/** Prints the text while it arrives. */
const streamed = (
  client: Client<LlmError>,
  request: LlmRequest.Input,
  out: Device,
  err: Device
): Effect.Effect<LlmResponse, LlmError, Scope.Scope> =>
  Effect.gen(function*() {
    const progress = yield* Progress.start(err, "asking", client.events)
    const { parts, response } = yield* client.open(request)
    yield* progress.stop
    yield* Stream.runForEach(parts, (part) =>
      part.type === "text-delta" ? out.write(shown(out, part.delta)) : Effect.void).pipe(
        Effect.ensuring(out.write("\n"))
      )
    return yield* response
  })

const shown = (device: Device, text: string): string => device.isTerminal ? printable(text) : text

const footer = ({ ledger, model, target, usage }: LlmResponse): string => {
  const ended = ledger.findLast((event) => event._tag === "CallEnded")
  const [input, output] = [usage.inputTokens.total, usage.outputTokens.total]
  return [
    target,
    ...(model === undefined ? [] : [printable(model)]),
    ...(ended === undefined ? [] : [duration(ended.duration)]),
    ...(input === undefined || output === undefined ? [] : [`${input} + ${output} tokens`])
  ].join(" · ")
}

// -----------------------------------------------------------------------------
// failures
// -----------------------------------------------------------------------------

const isOfCall = (error: AskError): error is CallError => "ledger" in error

const report = (error: AskError, { json, verbose }: Options, { err, out }: Devices): Effect.Effect<void> => {
  const explanation = isOfCall(error) ? explain(error) : { what: error.message, targets: [], advice: adviceFor(error) }
  if (json) {
    const ofCall = isOfCall(error) ? { ledger: error.ledger } : undefined
    const { advice } = explanation
    return out.write(
      document({ error: { ...summary(error), message: withoutWords(error.message), advice, ...ofCall } })
    )
  }
  const more = verbose && isOfCall(error)
    ? [...details(error).map(printable), ...(error.ledger.length === 0 ? [] : [ledger(error.ledger, err.paint)])]
    : []
  return err.write(`${[render(explanation, err.paint), ...more].join("\n\n")}\n`)
}

const adviceFor = (error: Exclude<AskError, CallError>): ReadonlyArray<string> => {
  if (error._tag === "MissingKey") {
    return error.address === undefined
      ? [`Set ${error.variable}, or leave out --provider.`]
      : [`Set ${error.variable}: to any text, if the server at ${error.address} wants no key.`]
  }
  if (error._tag !== "LlmConfigError") return []
  const variable = keyVariable(error.path.split(".")[0]!.toLowerCase())
  return variable === undefined ? [] : [`Check ${variable}, and ${baseUrlVariable(variable)} if you set it.`]
}
