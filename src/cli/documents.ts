// Documents that flags name: what is wrong with one says which.
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as LlmConfig from "../LlmConfig.ts"
import type { LlmConfigError } from "../LlmError.ts"
import { file, InputError } from "./input.ts"

/** The options of a client, from a file. */
export const optionsIn = (path: string): Effect.Effect<LlmConfig.Options, InputError, FileSystem.FileSystem> =>
  naming(path, Effect.flatMap(json("--config", path), LlmConfig.fromJson))

/** What a file means as JSON. */
export const json = (
  flag: string,
  path: string
): Effect.Effect<unknown, InputError, FileSystem.FileSystem> =>
  Effect.flatMap(file(flag, path), (bytes) =>
    Effect.try({
      try: (): unknown => JSON.parse(bytes.toString("utf8")),
      catch: () => new InputError({ what: `${flag} ${path}`, rule: "is not JSON" })
    }))

/** Of several files, which one is wrong. */
export const naming = <A, R>(
  path: string,
  effect: Effect.Effect<A, InputError | LlmConfigError, R>
): Effect.Effect<A, InputError, R> =>
  Effect.mapError(effect, (error) => error._tag === "InputError" ? error : inFile(path, error))

const inFile = (path: string, { kind, path: at, rule }: LlmConfigError): InputError =>
  new InputError({ what: `${path}: ${at === "" ? "the document" : at}`, rule: `must be ${rule}, but is ${kind}` })
