// What would have happened: scenarios and policies from files, through the simulator.
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import type * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type * as Terminal from "effect/Terminal"
import { gunzipSync } from "node:zlib"
import type { LlmConfigError } from "../LlmError.ts"
import * as Simulator from "../testing/Simulator.ts"
import { naming, optionsIn } from "./documents.ts"
import { Failed } from "./failures.ts"
import { file, InputError, jsonIn } from "./input.ts"
import * as Progress from "./progress.ts"
import { json } from "./render.ts"
import { type Device, devices } from "./terminal.ts"

export interface Options {
  /** The name of a built-in one, or the path of a JSON file. */
  readonly scenario: string
  /** Paths of JSON files with options; none: the defaults. */
  readonly config: ReadonlyArray<string>
  /** Path of a CSV with arrivals, `.gz` or not, instead of the scenario's own. */
  readonly trace: string | undefined
  /** Each `vendor=path` of a status page's incidents, instead of the vendor's own phases. */
  readonly incidents: ReadonlyArray<string>
  /** The moment at which the incidents' simulation starts. */
  readonly start: string | undefined
  readonly stream: boolean
  readonly seed: number
  /** Where the page is written. */
  readonly html: string | undefined
  readonly json: boolean
}

const MOST_CONFIGS = 20

export const simulate = (
  options: Options
): Effect.Effect<void, Failed, Stdio.Stdio | Terminal.Terminal | FileSystem.FileSystem | Path.Path> =>
  Effect.flatMap(devices, ({ err, out }) =>
    play(options, err).pipe(
      Effect.flatMap((report) => out.write(options.json ? `${json(report)}\n` : Simulator.table(report))),
      Effect.catch((error) =>
        Effect.andThen(err.write(`${err.paint("bad", "✗")} ${error.message}\n`), Effect.fail(new Failed()))
      )
    ))

const play = (options: Options, err: Device) =>
  Effect.gen(function*() {
    const scenario = yield* scenarioOf(options)
    const policies = yield* policiesOf(options.config)
    const report = yield* Effect.scoped(Effect.gen(function*() {
      const { say } = yield* Progress.start(err, "Calls are drawn", Stream.never)
      return yield* Simulator.run({
        ...scenario,
        policies,
        seed: options.seed,
        progress: (policy, ended, calls) => say(`${policy}: ${Math.floor(100 * ended / calls)} % of ${calls} calls`)
      })
    }))
    if (options.html !== undefined) yield* write(options.html, Simulator.html(report), err)
    return report
  })

const write = (path: string, page: string, err: Device) =>
  Effect.gen(function*() {
    const system = yield* FileSystem.FileSystem
    yield* Effect.mapError(
      system.writeFileString(path, page),
      ({ reason }) => new InputError({ what: `--html ${path}`, rule: `cannot be written (${reason._tag})` })
    )
    yield* err.write(`The charts are in ${path}.\n`)
  })

// -----------------------------------------------------------------------------
// what is played
// -----------------------------------------------------------------------------

type Read<A> = Effect.Effect<A, InputError | LlmConfigError, FileSystem.FileSystem | Path.Path>

const isBuiltIn = (name: string): name is keyof typeof Simulator.scenarios => Object.hasOwn(Simulator.scenarios, name)

const scenarioOf = ({ incidents, scenario, start, stream, trace }: Options): Read<Simulator.Scenario> =>
  Effect.gen(function*() {
    const own = isBuiltIn(scenario) ? Simulator.scenarios[scenario] : yield* scenarioFile(scenario)
    const traced = trace === undefined ? own : { ...own, arrivals: yield* arrivalsOf(trace, own.arrivals) }
    const streamed = stream ? { ...traced, arrivals: { ...traced.arrivals, operation: "stream" as const } } : traced
    if (start !== undefined && incidents.length === 0) {
      return yield* new InputError({ what: "--start", rule: "is for --incidents, and none are given" })
    }
    const read = yield* Effect.forEach(incidents, (one) => phasesOf(one, streamed, start))
    const phases = new Map(read)
    const twice = read.find(([vendor], i) => read.findIndex(([other]) => other === vendor) < i)
    if (twice !== undefined) {
      return yield* new InputError({ what: `--incidents ${twice[0]}=…`, rule: "is given twice for one vendor" })
    }
    // Each page by itself would begin before its own first incident, and what happened at one time would not.
    if (start === undefined && phases.size > 1) {
      return yield* new InputError({ what: "--start", rule: "must be given, where several vendors have incidents" })
    }
    const vendors = streamed.vendors.map((vendor) => withPhases(vendor, phases.get(vendor.id)))
    return { ...streamed, vendors }
  })

const withPhases = (vendor: Simulator.Vendor, phases: Simulator.Vendor["phases"]): Simulator.Vendor =>
  phases === undefined ? vendor : { ...vendor, phases }

const scenarioFile = (path: string): Read<Simulator.Scenario> =>
  Effect.gen(function*() {
    if (!(yield* Path.Path).extname(path).startsWith(".")) {
      const rule = `is none of ${Object.keys(Simulator.scenarios).join(", ")}, and no file that ends in .json`
      return yield* new InputError({ what: `--scenario ${path}`, rule })
    }
    return yield* naming(path, Effect.flatMap(jsonIn("--scenario", path), Simulator.fromJson))
  })

/** Who calls, and what for, stays as the scenario has it. */
const arrivalsOf = (path: string, { callers, operation, questions }: Simulator.Arrivals): Read<Simulator.Arrivals> =>
  Effect.gen(function*() {
    const bytes = yield* file("--trace", path)
    const csv = yield* Effect.try({
      try: () =>
        (path.endsWith(".gz") ? gunzipSync(bytes, { maxOutputLength: LARGEST_TRACE }) : bytes).toString("utf8"),
      catch: () => new InputError({ what: `--trace ${path}`, rule: "is no gzip file, or too large a one" })
    })
    const { calls } = yield* naming(path, Simulator.readTrace(csv))
    return { kind: "trace", calls, callers, operation, questions }
  })

const LARGEST_TRACE = 256 * 1024 * 1024

const phasesOf = (
  text: string,
  { vendors }: Simulator.Scenario,
  start: string | undefined
): Read<readonly [vendor: string, phases: ReadonlyArray<Simulator.Phase>]> =>
  Effect.gen(function*() {
    const [, vendor = "", path = ""] = /^([^=]*)=(.*)$/su.exec(text) ?? []
    const names = vendors.map(({ id }) => id)
    if (!names.includes(vendor)) {
      const rule = `must be a vendor and a path, as ${names[0]}=incidents.json; vendors are ${names.join(", ")}`
      return yield* new InputError({ what: `--incidents ${text}`, rule })
    }
    const document = yield* jsonIn("--incidents", path)
    return [vendor, yield* naming(path, Simulator.fromIncidents(document, { start }))] as const
  })

const policiesOf = (paths: ReadonlyArray<string>): Read<ReadonlyArray<Simulator.Policy>> =>
  Effect.gen(function*() {
    if (paths.length === 0) return [{ name: "defaults" }]
    if (paths.length > MOST_CONFIGS) {
      return yield* new InputError({ what: "--config", rule: `is given more than ${MOST_CONFIGS} times` })
    }
    const { basename } = yield* Path.Path
    const names = paths.map((path) => basename(path, ".json"))
    return yield* Effect.forEach(paths, (path, i) =>
      Effect.map(
        optionsIn(path),
        // Two files of one name are told apart by their folders.
        (options) => ({ name: names.indexOf(names[i]!) === names.lastIndexOf(names[i]!) ? names[i]! : path, options })
      ))
  })
