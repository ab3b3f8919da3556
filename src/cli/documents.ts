// Documents that flags name: what is wrong with one says which.
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as LlmConfig from "../LlmConfig.ts"
import type { LlmConfigError } from "../LlmError.ts"
import { InputError, jsonIn } from "./input.ts"

/** The options of a client, from a file. */
export const optionsIn = (path: string): Effect.Effect<LlmConfig.Options, InputError, FileSystem.FileSystem> =>
  naming(path, Effect.flatMap(jsonIn("--config", path), LlmConfig.fromJson))

/** Of several files, which one is wrong. */
export const naming = <A, R>(
  path: string,
  effect: Effect.Effect<A, InputError | LlmConfigError, R>
): Effect.Effect<A, InputError, R> =>
  Effect.mapError(effect, (error) => error._tag === "InputError" ? error : inFile(path, error))

const inFile = (path: string, { kind, path: at, rule }: LlmConfigError): InputError =>
  new InputError({ what: `${path}: ${at === "" ? "the document" : at}`, rule: `must be ${rule}, but is ${kind}` })
