// What a configuration comes to, before it runs.
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as Stdio from "effect/Stdio"
import type * as Terminal from "effect/Terminal"
import * as LlmConfig from "../LlmConfig.ts"
import { optionsIn } from "./documents.ts"
import { Failed } from "./failures.ts"
import { flow, json, type Paint } from "./render.ts"
import { devices } from "./terminal.ts"

export interface Options {
  /** Names of the targets, first to last; none: one. */
  readonly targets: ReadonlyArray<string>
  /** Path of a JSON file with options; none: those of the environment. */
  readonly config: string | undefined
  readonly json: boolean
}

export const explain = (
  options: Options
): Effect.Effect<void, Failed, Stdio.Stdio | Terminal.Terminal | FileSystem.FileSystem> =>
  Effect.flatMap(devices, ({ err, out }) =>
    said(options).pipe(
      Effect.flatMap(({ explanation, findings }) =>
        out.write(
          options.json
            ? `${json({ ...explanation, findings })}\n`
            : `${[LlmConfig.render(explanation), ...findings.map(shown(out.paint))].join("\n\n")}\n`
        )
      ),
      Effect.catch((error) => {
        const { message } = error._tag === "ConfigError" ? error.cause : error
        return Effect.andThen(err.write(`${err.paint("bad", "✗")} ${message}\n`), Effect.fail(new Failed()))
      })
    ))

const said = ({ config, targets }: Options) =>
  Effect.gen(function*() {
    const options = yield* config === undefined ? LlmConfig.config : optionsIn(config)
    const names = targets.length === 0 ? ["vendor"] : targets
    return {
      explanation: yield* LlmConfig.explain(names, options),
      findings: yield* LlmConfig.lint(names, options)
    }
  })

const shown = (paint: Paint) => ({ fix, id, reason, severity }: LlmConfig.Finding): string =>
  [
    `${severity === "warning" ? paint("warn", "!") : paint("quiet", "i")} ${paint("strong", id)}`,
    flow(reason.split(" "), " ", "  "),
    flow(`→ ${fix}`.split(" "), " ", "  ")
  ].join("\n")
