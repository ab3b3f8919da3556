// The commands, their flags and their help.
import * as Argument from "effect/cli/Argument"
import * as CliConfig from "effect/cli/CliConfig"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as TerminalCapabilities from "effect/cli/TerminalCapabilities"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { millisOf } from "../internal/option.ts"
import * as Ask from "./ask.ts"
import { cases } from "./cases.ts"
import * as Demo from "./demo.ts"
import * as Explain from "./explain.ts"
import * as Simulate from "./simulate.ts"
import { vendorIds } from "./vendors.ts"
import * as Watch from "./watch.ts"

/** `30s`, `500ms`, `2m`, or a duration as Effect writes it: `"30 seconds"`. */
export const parseDuration = (text: string): Duration.Duration => {
  const millis = millisOf(text)
  if (millis === undefined || !(millis > 0)) throw new Error("a duration, such as 30s, 500ms or \"2 minutes\"")
  return Duration.millis(millis)
}

/** Help is not wrapped for us. */
const lines = (...text: ReadonlyArray<string>): string => text.join("\n  ")

const ask = Command.make(
  "ask",
  {
    prompt: Argument.String("prompt").pipe(
      Argument.withDescription("The question; what is piped in comes behind it"),
      Argument.optional
    ),
    model: Flag.String("model").pipe(
      Flag.withAlias("m"),
      Flag.withDescription("Model to ask; its maker is asked first"),
      Flag.optional
    ),
    provider: Flag.Literals("provider", vendorIds).pipe(
      Flag.withAlias("p"),
      Flag.withDescription("Whom to ask"),
      Flag.atLeast(0)
    ),
    stream: Flag.Boolean("stream").pipe(
      Flag.withAlias("s"),
      Flag.withDescription("Print the answer while it arrives"),
      Flag.withDefault(false)
    ),
    system: Flag.String("system").pipe(Flag.withDescription("System message"), Flag.optional),
    file: Flag.String("file").pipe(
      Flag.withAlias("f"),
      Flag.withMetavar("<path>"),
      Flag.withDescription("Image, PDF or sound to ask about"),
      Flag.atLeast(0)
    ),
    object: Flag.String("object").pipe(
      Flag.withMetavar("<path>"),
      Flag.withDescription("JSON Schema: print a value that fits it"),
      Flag.optional
    ),
    deadline: Flag.String("deadline").pipe(
      Flag.withMetavar("<duration>"),
      Flag.mapTryCatch(parseDuration, (error) => error instanceof Error ? error.message : String(error)),
      Flag.withDescription("Longest time to wait, such as 30s (default 5m)"),
      Flag.optional
    ),
    state: Flag.String("state").pipe(
      Flag.withMetavar("<where>"),
      Flag.withDescription("Shared state: sqlite:<file> or redis://… (LLM_STATE)"),
      Flag.optional
    ),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print answer or error with ledger as JSON"),
      Flag.withDefault(false)
    ),
    verbose: Flag.Boolean("verbose").pipe(
      Flag.withDescription("Show the ledger: all that the call did"),
      Flag.withDefault(false)
    )
  },
  ({ deadline, model, object, prompt, state, system, ...flags }) =>
    Ask.ask({
      ...flags,
      prompt: Option.getOrUndefined(prompt),
      object: Option.getOrUndefined(object),
      model: Option.getOrUndefined(model),
      state: Option.getOrUndefined(state),
      system: Option.getOrUndefined(system),
      deadline: Option.getOrUndefined(deadline)
    })
).pipe(
  Command.withDescription(
    lines(
      "Ask a question. Providers whose keys are set are asked in turn until one",
      "answers: OPENAI_API_KEY, ANTHROPIC_API_KEY, COHERE_API_KEY. Without any key,",
      "local simulated providers answer. --provider, once or more often, asks only",
      "these, in this order. Options are set by variables, such as",
      "LLM_RETRY_MAX_RETRIES=1."
    )
  ),
  Command.withShortDescription("Ask a question"),
  Command.withExamples(({ commandPath }) => [
    { command: `${commandPath.join(" ")} "What is AI?"` },
    { command: `${commandPath.join(" ")} "What is AI?" -s -p anthropic -p openai` },
    { command: `git diff | ${commandPath.join(" ")} "Describe this change"` },
    { command: `${commandPath.join(" ")} "What is on it?" -f receipt.png --object receipt.schema.json` }
  ])
)

const demo = Command.make(
  "demo",
  {
    metrics: Flag.Boolean("metrics").pipe(
      Flag.withDescription("Print the metrics afterwards, as Prometheus reads them; the stories go to standard error"),
      Flag.withDefault(false)
    )
  },
  (flags) => Demo.demo(cases, flags)
).pipe(
  Command.withDescription(
    lines(
      "Start two local servers that fail on cue, send real requests through the full",
      "pipeline, and show what each pattern did. Needs no keys and no network.",
      "Ends with 0 only if every case behaved."
    )
  ),
  Command.withShortDescription("Watch every pattern at work, locally")
)

const watch = Command.make(
  "watch",
  {
    time: Flag.String("for").pipe(
      Flag.withMetavar("<duration>"),
      Flag.mapTryCatch(parseDuration, (error) => error instanceof Error ? error.message : String(error)),
      Flag.withDescription("How long, such as 20s; otherwise until Ctrl-C"),
      Flag.optional
    )
  },
  ({ time }) => Watch.watch(Option.getOrUndefined(time))
).pipe(
  Command.withDescription(
    lines(
      "Keep two local servers busy while they fail in turn, and show live what the",
      "pipeline does about it: circuits, rates, latencies, lines, hits. In a pipe,",
      "one picture per second."
    )
  ),
  Command.withShortDescription("Watch circuits, rates and latencies live, locally")
)

const simulate = Command.make(
  "simulate",
  {
    scenario: Flag.String("scenario").pipe(
      Flag.withMetavar("<name>"),
      Flag.withDescription("A built-in name, or a JSON file (default outage)"),
      Flag.withDefault("outage")
    ),
    config: Flag.String("config").pipe(
      Flag.withMetavar("<file>"),
      Flag.withDescription("Options as JSON; once or more often, to compare"),
      Flag.atLeast(0)
    ),
    trace: Flag.String("trace").pipe(
      Flag.withMetavar("<file>"),
      Flag.withDescription("Arrivals: CSV of time, input and output tokens"),
      Flag.optional
    ),
    incidents: Flag.String("incidents").pipe(
      Flag.withMetavar("<vendor=file>"),
      Flag.withDescription("incidents.json of a vendor's status page"),
      Flag.atLeast(0)
    ),
    start: Flag.String("start").pipe(
      Flag.withMetavar("<date>"),
      Flag.withDescription("First moment (default 10 min before incidents)"),
      Flag.optional
    ),
    stream: Flag.Boolean("stream").pipe(
      Flag.withAlias("s"),
      Flag.withDescription("Every call is a stream"),
      Flag.withDefault(false)
    ),
    seed: Flag.Int("seed").pipe(
      Flag.withDescription("Where chance begins (default 1)"),
      Flag.withDefault(1)
    ),
    html: Flag.String("html").pipe(
      Flag.withMetavar("<file>"),
      Flag.withDescription("Write a page with charts"),
      Flag.optional
    ),
    json: Flag.Boolean("json").pipe(Flag.withDescription("Print the report as JSON"), Flag.withDefault(false))
  },
  ({ html, start, trace, ...flags }) =>
    Simulate.simulate({
      ...flags,
      html: Option.getOrUndefined(html),
      start: Option.getOrUndefined(start),
      trace: Option.getOrUndefined(trace)
    })
).pipe(
  Command.withDescription(
    lines(
      "Play hours of calls through the production pipeline in virtual time, in a",
      "second or two, against vendors that fail, and compare options. Scenarios:",
      "overload, hang, brown-out, rate-limit-storm, quota-at-noon, region-loss,",
      "flapping, slow-first-token, bad-deploy, outage; or a file of your own."
    )
  ),
  Command.withShortDescription("Try options on an outage, in virtual time"),
  Command.withExamples(({ commandPath }) => [
    { command: `${commandPath.join(" ")} --scenario hang` },
    { command: `${commandPath.join(" ")} --config a.json --config b.json --html out.html` },
    { command: `${commandPath.join(" ")} --scenario outage.json --trace arrivals.csv.gz` }
  ])
)

const explain = Command.make(
  "explain",
  {
    targets: Argument.String("target").pipe(
      Argument.withDescription("Names of the targets, first to last (default one)"),
      Argument.variadic()
    ),
    config: Flag.String("config").pipe(
      Flag.withMetavar("<file>"),
      Flag.withDescription("Options as JSON (default LLM_… variables)"),
      Flag.optional
    ),
    json: Flag.Boolean("json").pipe(Flag.withDescription("Print it as JSON"), Flag.withDefault(false))
  },
  ({ config, ...flags }) => Explain.explain({ ...flags, config: Option.getOrUndefined(config) })
).pipe(
  Command.withDescription(
    lines(
      "Say what options come to, before anything runs: what a call passes, how often",
      "it asks and how long it waits at most, what becomes of each kind of failure,",
      "what is kept in memory; and what is surely or probably not meant."
    )
  ),
  Command.withShortDescription("Say what options come to, and what is wrong with them"),
  Command.withExamples(({ commandPath }) => [
    { command: `${commandPath.join(" ")} openai anthropic` },
    { command: `${commandPath.join(" ")} openai anthropic --config llm.json --json` }
  ])
)

const command = Command.make("resilient-llm").pipe(
  Command.withDescription("Resilient calls to LLM providers"),
  Command.withSubcommands([demo, ask, watch, simulate, explain])
)

export const run = (args: ReadonlyArray<string>, version: string) => Command.runWith(command, { version })(args)

/** Only global flags that mean something here; and a wrong invocation leaves standard output empty. */
export const layer: Layer.Layer<never> = Layer.mergeAll(
  CliConfig.layer({ builtIns: [GlobalFlag.Help, GlobalFlag.Version] }),
  CliOutput.layerPresenter({
    present: (event) =>
      event._tag !== "InvalidInvocation"
        ? CliOutput.defaultPresenter.present(event)
        : Effect.flatMap(TerminalCapabilities.TerminalCapabilities, ({ canColor }) => {
          const format = CliOutput.defaultFormatter({ colors: canColor })
          return Console.error(`${format.formatHelpDoc(event.helpDoc)}\n${format.formatErrors(event.errors)}`)
        })
  })
)
