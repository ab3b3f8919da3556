// What a question is made of: the prompt, what is piped in, files, and the schema of a value.
import type * as Prompt from "effect/ai/Prompt"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as JsonSchema from "effect/JsonSchema"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import * as Schema from "effect/Schema"
import * as SchemaRepresentation from "effect/SchemaRepresentation"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as LlmObject from "../LlmObject.ts"
import { type Device, printable } from "./terminal.ts"

/** What was given cannot be asked. */
export class InputError extends Data.TaggedError("InputError")<{ readonly what: string; readonly rule: string }> {
  override get message(): string {
    return `${printable(this.what)} ${printable(this.rule)}.`
  }
}

// Vendors take no more in one request, and base64 makes it a third longer.
const LARGEST = 20 * 1024 * 1024

const bounded = (bytes: Stream.Stream<Uint8Array, PlatformError>, what: string): Effect.Effect<Buffer, InputError> =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    let size = 0
    return bytes.pipe(
      Stream.mapError(({ reason }) => new InputError({ what, rule: `cannot be read (${reason._tag})` })),
      Stream.runForEach((chunk) => {
        size += chunk.length
        if (size > LARGEST) {
          return Effect.fail(new InputError({ what, rule: `is larger than ${LARGEST / 1024 / 1024} MiB` }))
        }
        chunks.push(chunk)
        return Effect.void
      }),
      Effect.map(() => Buffer.concat(chunks))
    )
  })

export const file = (flag: string, path: string): Effect.Effect<Buffer, InputError, FileSystem.FileSystem> =>
  Effect.flatMap(FileSystem.FileSystem, (system) => bounded(system.stream(path), `${flag} ${path}`))

/** What a file means as JSON. */
export const jsonIn = (flag: string, path: string): Effect.Effect<unknown, InputError, FileSystem.FileSystem> =>
  Effect.flatMap(file(flag, path), (bytes) =>
    Effect.try({
      try: (): unknown => JSON.parse(bytes.toString("utf8")),
      catch: () => new InputError({ what: `${flag} ${path}`, rule: "is not JSON" })
    }))

const PATIENCE = "3 seconds"

/**
 * All that is piped in. Who starts the program from another one may leave standard input open for ever, and nobody can
 * see that: where there is something to ask without it, a silence ends it.
 */
const standardInput = (isNeeded: boolean, err: Device): Effect.Effect<string, InputError, Stdio.Stdio> =>
  Effect.gen(function*() {
    const { stdin } = yield* Stdio.Stdio
    const begun = yield* Deferred.make<void>()
    const read = bounded(Stream.tap(stdin, () => Deferred.succeed(begun, undefined)), "Standard input")
    const silence = Effect.gen(function*() {
      if (Option.isSome(yield* Effect.timeoutOption(Deferred.await(begun), PATIENCE))) return yield* Effect.never
      if (isNeeded) {
        yield* err.write("Reading standard input until it ends …\n")
        return yield* Effect.never
      }
      yield* err.write(`Nothing came from standard input for ${PATIENCE}: asking without it.\n`)
      return Buffer.of()
    })
    const bytes = yield* Effect.raceFirst(read, silence)
    if (bytes.includes(0)) {
      return yield* new InputError({ what: "Standard input", rule: "is not text; images and documents go with --file" })
    }
    return bytes.toString("utf8").trim()
  })

/** The prompt, and behind it what is piped in; `-` is what is piped in alone. */
export const question = (
  prompt: string | undefined,
  err: Device
): Effect.Effect<string, InputError, Stdio.Stdio> =>
  Effect.gen(function*() {
    const isTerminal = yield* (yield* Stdio.Stdio).stdinIsTerminal
    if (prompt === "-") return yield* standardInput(true, err)
    if (prompt !== undefined) {
      const piped = isTerminal ? "" : yield* standardInput(false, err)
      return piped === "" ? prompt : `${prompt}\n\n${piped}`
    }
    if (!isTerminal) return yield* standardInput(true, err)
    return yield* new InputError({ what: "Nothing", rule: "is asked: give a prompt, or pipe one in" })
  })

const mediaTypes: ReadonlyMap<string, string> = new Map([
  [".png", "image/png"],
  [".jpg", "image/jpeg"],
  [".jpeg", "image/jpeg"],
  [".gif", "image/gif"],
  [".webp", "image/webp"],
  [".pdf", "application/pdf"],
  [".mp3", "audio/mpeg"],
  [".wav", "audio/wav"]
])

/** Images and documents beside the question. Their names say what they are. */
export const attachments = (
  paths: ReadonlyArray<string>
): Effect.Effect<ReadonlyArray<Prompt.FilePartEncoded>, InputError, FileSystem.FileSystem | Path.Path> =>
  Effect.forEach(paths, (path) =>
    Effect.gen(function*() {
      const { basename, extname } = yield* Path.Path
      const mediaType = mediaTypes.get(extname(path).toLowerCase())
      if (mediaType === undefined) {
        const rule = `must end in ${[...mediaTypes.keys()].join(", ")}; texts are piped in`
        return yield* new InputError({ what: `--file ${path}`, rule })
      }
      return { type: "file", mediaType, fileName: basename(path), data: yield* file("--file", path) } as const
    }))

/** What the answer is to be, by a file with a JSON Schema. */
export const format = (path: string): Effect.Effect<LlmObject.Format<unknown>, InputError, FileSystem.FileSystem> =>
  Effect.flatMap(jsonIn("--object", path), (json) =>
    Effect.try({
      try: () => formatOf(json),
      catch: (error) =>
        new InputError({
          what: `--object ${path}`,
          rule: `is no JSON Schema that can be followed: ${(error instanceof Error ? error.message : "").slice(0, 200)}`
        })
    }))

const formatOf = (json: unknown): LlmObject.Format<unknown> => {
  if (!isSchema(json)) throw new TypeError("it must be an object")
  checkTypes(json, "")
  const isOld = /draft-0[4-7]/.test(String(json["$schema"]))
  const document = isOld ? JsonSchema.fromSchemaDraft07(json) : JsonSchema.fromSchemaDraft2020_12(json)
  const schema = SchemaRepresentation.fromJsonSchemaDocument(document, { patterns: "apply" })
  return LlmObject.fromStandard(Schema.toStandardSchemaV1(Schema.make<Schema.Codec<unknown>>(schema.ast)), json)
}

const isSchema = (json: unknown): json is JsonSchema.JsonSchema =>
  typeof json === "object" && json !== null && !Array.isArray(json)

const types: ReadonlySet<unknown> = new Set(["string", "number", "integer", "boolean", "object", "array", "null"])
const named = ["properties", "patternProperties", "$defs", "definitions"]
const nested = ["items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf"]

/** A type that there is not, such as `int`, would be read as one that everything has. */
const checkTypes = (schema: unknown, path: string): void => {
  if (typeof schema === "boolean") return
  if (!isSchema(schema)) throw new TypeError(`${path} must be an object`)
  const at = (...steps: ReadonlyArray<string>): string => [...(path === "" ? [] : [path]), ...steps].join(".")
  for (const type of [schema["type"] ?? []].flat()) {
    if (!types.has(type)) throw new TypeError(`${at("type")} must be one of ${[...types].join(", ")}`)
  }
  for (const keyword of nested) {
    for (const one of [schema[keyword] ?? []].flat()) checkTypes(one, at(keyword))
  }
  for (const keyword of named) {
    for (const [name, one] of Object.entries(schema[keyword] ?? {})) checkTypes(one, at(keyword, name))
  }
}
