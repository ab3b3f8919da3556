// The main job: one question, one answer, and on request everything that happened on the way.
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type * as Terminal from "effect/Terminal"
import { type Client, LlmClient } from "../LlmClient.ts"
import { type LlmConfigError, type LlmError, summary, withoutWords } from "../LlmError.ts"
import type * as LlmRequest from "../LlmRequest.ts"
import type { LlmResponse } from "../LlmResponse.ts"
import * as DispatcherHttpClient from "../node/DispatcherHttpClient.ts"
import * as StateConfig from "../persistence/Config.ts"
import { details, explain, Failed, render } from "./explain.ts"
import * as Progress from "./progress.ts"
import { duration, json, ledger } from "./render.ts"
import { type Device, type Devices, devices, printable } from "./terminal.ts"
import { baseUrlVariable, choose, keyVariable, keyVariables, type MissingKey, type VendorId } from "./vendors.ts"

export interface Options {
  readonly prompt: string
  readonly model: string | undefined
  readonly provider: ReadonlyArray<VendorId>
  readonly stream: boolean
  readonly system: string | undefined
  readonly deadline: Duration.Duration | undefined
  /** Where answers and limits are shared: as `LLM_STATE`, which it goes before. */
  readonly state: string | undefined
  readonly json: boolean
  readonly verbose: boolean
}

type AskError = LlmError | LlmConfigError | MissingKey | Config.ConfigError

export const ask = (options: Options): Effect.Effect<void, Failed, Stdio.Stdio | Terminal.Terminal> =>
  Effect.flatMap(devices, (devices) =>
    Effect.catch(
      Effect.scoped(Effect.provide(answer(options, devices), DispatcherHttpClient.layerAgent())),
      (error) => Effect.andThen(report(error, options, devices), Effect.fail(new Failed()))
    ))

const answer = (options: Options, { err, out }: Devices) =>
  Effect.gen(function*() {
    const request = yield* requestOf(options)
    const { providers, simulated } = yield* choose(options.provider, options.model)
    if (simulated) yield* err.write(`No ${keyVariables}: ${err.paint("warn", "the answer is simulated")}\n`)
    const [first, ...others] = providers
    // One process, one question: nobody would read a cache. What is shared with other processes is what is paid for.
    const given = yield* Config.option(Config.schema(Schema.String, "LLM_STATE"))
    const derive = options.state === undefined && Option.isNone(given) ? false : "replay"
    const state = options.state === undefined ? StateConfig.layerConfig() : StateConfig.layer(options.state)
    const layer = Layer.provide(
      LlmClient.layerDynamic([first, ...others], { cache: false, idempotency: { derive } }),
      state
    )
    const client = Context.get(yield* Layer.build(layer), LlmClient)

    const live = options.stream && !options.json
    const response = yield* live ? streamed(client, request, out, err) : whole(client, request, options.stream, err)
    if (options.json) yield* out.write(document({ ...fields(response), simulated, ledger: response.ledger }))
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

const requestOf = ({ deadline, model, prompt, system }: Options): Effect.Effect<LlmRequest.Input, never, Stdio.Stdio> =>
  Effect.map(prompt === "-" ? standardInput : Effect.succeed(prompt), (text) => ({
    prompt: system === undefined || text === ""
      ? text
      : [{ role: "system", content: system }, { role: "user", content: [{ type: "text", text }] }],
    model,
    deadline
  }))

const standardInput = Effect.flatMap(
  Stdio.Stdio,
  ({ stdin }) => Effect.map(Effect.orDie(Stream.mkString(Stream.decodeText(stdin))), (text) => text.trim())
)

/** The whole answer at once; `stream` decides only how it is fetched. */
const whole = (
  client: Client<LlmError>,
  request: LlmRequest.Input,
  stream: boolean,
  err: Device
): Effect.Effect<LlmResponse, LlmError> =>
  Effect.scoped(
    Effect.andThen(
      Progress.start(err, "asking", client.events),
      stream ? Effect.flatMap(client.open(request), ({ response }) => response) : client.complete(request)
    )
  )

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

const isOfCall = (error: AskError): error is LlmError => "ledger" in error

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

const adviceFor = (error: Exclude<AskError, LlmError>): ReadonlyArray<string> => {
  if (error._tag === "MissingKey") return [`Set ${error.variable}, or leave out --provider.`]
  if (error._tag !== "LlmConfigError") return []
  const variable = keyVariable(error.path.split(".")[0]!.toLowerCase())
  return variable === undefined ? [] : [`Check ${variable}, and ${baseUrlVariable(variable)} if you set it.`]
}
