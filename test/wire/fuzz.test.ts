// Whatever a server sends, a call ends in parts or in a typed failure: no defect, no hang, nothing made up. Answers of
// every adapter are cut at every byte, and bent at random; a failing run prints what it did and its seed.
import { assert, describe, it } from "@effect/vitest"
import { TRUNCATED } from "effect-resilient-llm/LlmError"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as ResponsePart from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Schema from "effect/Schema"
import { apiKey, digest, hash, type Make, type Outcome, run, type Script, seeded, serve } from "../providers/support.ts"
import { protocols, SECRET, type Specimen, specimens } from "./specimens.ts"

/** What only bodies that tell of a failure have in them. */
const failing = /"(?:error|ERROR)"|event: error/

/** One provider per specimen; the script changes. */
const player = ({ make, status, streaming }: Specimen) => {
  let bytes: Uint8Array<ArrayBuffer> = new Uint8Array()
  const transport = serve(() => {
    // Two pieces, so that the border between them is everywhere in turn.
    const middle = bytes.length >> 1
    const body = [bytes.slice(0, middle), bytes.slice(middle)]
    const headers = { "content-type": streaming ? "text/event-stream" : "application/json" }
    const script: Script = { status: status ?? 200, headers, body }
    return Effect.succeed(script)
  })
  return Effect.map(
    Effect.provideService(make, HttpClient.HttpClient, transport.client),
    (provider) => (input: Uint8Array<ArrayBuffer>) =>
      Effect.suspend(() => {
        bytes = input
        transport.sent.length = 0
        return run(provider, streaming)
      })
  )
}

/** Cheaper than an assertion of chai, of which there would be millions. */
const must = (holds: boolean, problem: string): void => {
  if (!holds) assert.fail(problem)
}

/** Whether every field of a part has the type that its schema says. */
const typed: ReadonlyMap<string, (part: unknown) => boolean> = new Map<string, (part: unknown) => boolean>([
  ["text", Schema.is(Schema.toEncoded(ResponsePart.TextPart))],
  ["text-start", Schema.is(Schema.toEncoded(ResponsePart.TextStartPart))],
  ["text-delta", Schema.is(Schema.toEncoded(ResponsePart.TextDeltaPart))],
  ["text-end", Schema.is(Schema.toEncoded(ResponsePart.TextEndPart))],
  ["reasoning", Schema.is(Schema.toEncoded(ResponsePart.ReasoningPart))],
  ["reasoning-start", Schema.is(Schema.toEncoded(ResponsePart.ReasoningStartPart))],
  ["reasoning-delta", Schema.is(Schema.toEncoded(ResponsePart.ReasoningDeltaPart))],
  ["reasoning-end", Schema.is(Schema.toEncoded(ResponsePart.ReasoningEndPart))],
  ["tool-params-start", Schema.is(Schema.toEncoded(ResponsePart.ToolParamsStartPart))],
  ["tool-params-delta", Schema.is(Schema.toEncoded(ResponsePart.ToolParamsDeltaPart))],
  ["tool-params-end", Schema.is(Schema.toEncoded(ResponsePart.ToolParamsEndPart))],
  [
    "tool-call",
    Schema.is(Schema.Struct({
      type: Schema.Literal("tool-call"),
      id: Schema.NonEmptyString,
      name: Schema.NonEmptyString,
      params: Schema.Json,
      metadata: Schema.optionalKey(ResponsePart.ProviderMetadata)
    }))
  ],
  [
    "source",
    Schema.is(Schema.Union([
      Schema.toEncoded(ResponsePart.UrlSourcePart),
      Schema.toEncoded(ResponsePart.DocumentSourcePart)
    ]))
  ],
  ["file", Schema.is(Schema.toEncoded(ResponsePart.FilePart))],
  ["response-metadata", Schema.is(Schema.toEncoded(ResponsePart.ResponseMetadataPart))],
  ["finish", Schema.is(Schema.toEncoded(ResponsePart.FinishPart))]
])

/** Must hold for every outcome. */
const checkOutcome = ({ error, parts }: Outcome, bytes: number): void => {
  // Ids of text and reasoning are ours; those of tools are the server's, which may repeat itself.
  const open: Array<string> = []
  let size = 0
  for (const [i, part] of parts.entries()) {
    size += JSON.stringify(part).length
    must(typed.get(part.type)?.(part) === true, `a part of ${part.type} with a field of another type`)
    const [block, step] = /^(.*)-(start|delta|end)$/.exec(part.type)?.slice(1) ?? []
    if (block !== undefined && "id" in part) {
      const key = `${block} ${part.id}`
      must(part.id !== "", "a block without id")
      if (step === "start") {
        must(block === "tool-params" || !open.includes(key), "a block is open twice")
        open.push(key)
      } else {
        must(open.includes(key), `${part.type} outside of a block`)
        if (step === "end") open.splice(open.indexOf(key), 1)
      }
    }
    must(!("delta" in part) || part.delta !== "", "an empty delta")
    must(part.type !== "response-metadata" || i === 0, "metadata in the middle")
    if (part.type === "tool-call") {
      must(error === undefined, "a call of a broken answer")
      must(part.name !== "" && part.id !== "", "a call without name or id")
    }
    if (part.type === "finish") {
      must(i === parts.length - 1 && error === undefined, "something after the end")
      for (const count of [...Object.values(part.usage.inputTokens), ...Object.values(part.usage.outputTokens)]) {
        must(Number.isSafeInteger(count) && count! >= 0, "a count of tokens that is none")
      }
    }
  }
  if (error === undefined) {
    must(parts[parts.length - 1]?.type === "finish", "an answer without an end")
    must(open.length === 0, "a block is left open")
  } else {
    must(error._tag === "ProviderError", "an error of another type")
    must(!error.message.includes(SECRET), "an error that leaks")
    must((error.code ?? "").length + (error.requestId ?? "").length <= 256, "a code without bounds")
  }
  must(size <= 32 * bytes + 2048, "more than was sent")
}

/** Plays `inputs`; what one of them did wrong is told with its label. */
const playAll = (
  specimen: Specimen,
  inputs: Iterable<readonly [label: () => string, bytes: Uint8Array<ArrayBuffer>]>,
  check: (outcome: Outcome) => void
) =>
  Effect.gen(function*() {
    const play = yield* player(specimen)
    let runs = 0
    let current = () => "the first"
    const failed = (problem: unknown) =>
      new Error(`${specimen.name}, ${current()}: ${problem instanceof Error ? problem.message : String(problem)}`, {
        cause: problem
      })
    yield* Effect.gen(function*() {
      for (const [label, bytes] of inputs) {
        current = label
        const outcome = yield* play(bytes)
        checkOutcome(outcome, bytes.length)
        check(outcome)
        runs++
      }
    }).pipe(
      Effect.timeoutOrElse({ duration: patience - 5000, orElse: () => Effect.die("hangs") }),
      Effect.catchDefect((defect) => Effect.die(failed(defect)))
    )
    return runs
  })

const bytesOf = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text)

const truncations = function*(bytes: Uint8Array<ArrayBuffer>) {
  for (let length = 0; length < bytes.length; length++) {
    yield [() => `cut after ${length} of ${bytes.length} bytes`, bytes.slice(0, length)] as const
  }
}

/** A few bits flipped, bytes removed, or a piece of another specimen put in: mostly no JSON any more. */
const bent = (bytes: Uint8Array<ArrayBuffer>, random: () => number): Uint8Array<ArrayBuffer> => {
  const below = (n: number): number => Math.floor(random() * n)
  if (random() < 0.5) {
    const out = bytes.slice()
    for (let i = 1 + below(4); i > 0; i--) out[below(out.length)]! ^= 1 << below(8)
    return out
  }
  const other = bytesOf(specimens[below(specimens.length)]!.body)
  const from = below(other.length)
  const piece = random() < 0.3 ? new Uint8Array() : other.subarray(from, from + 1 + below(200))
  const at = below(bytes.length)
  return Uint8Array.of(...bytes.subarray(0, at), ...piece, ...bytes.subarray(at + (random() < 0.5 ? 0 : below(50))))
}

const oddities: ReadonlyArray<unknown> = [
  null,
  true,
  0,
  -1,
  1.5,
  1e300,
  "",
  "odd",
  "0",
  "constructor",
  "__proto__",
  "x".repeat(5000),
  "\u0000\ud800",
  [],
  [null],
  [[]],
  {},
  { a: [] },
  { constructor: 1, toString: null }
]

/** One to three values inside the JSON of a body, or of an event of it, become something else. */
const odd = (body: string, random: () => number): string => {
  const below = (n: number): number => Math.floor(random() * n)
  const lines = body.split("\n")
  const holders = lines.flatMap((line, at) => {
    const [, start = "", text = ""] = /^(data: )?((?!\[DONE)[{[].*?)\r?$/.exec(line) ?? []
    return text === "" ? [] : [{ at, start, value: JSON.parse(text) as object }]
  })
  const { at, start, value } = holders[below(holders.length)]!
  for (let i = 1 + below(3); i > 0; i--) {
    const places: Array<readonly [holder: Record<string, unknown>, key: string]> = []
    const visit = (holder: object): void => {
      for (const [key, inner] of Object.entries(holder)) {
        places.push([holder as Record<string, unknown>, key])
        if (typeof inner === "object" && inner !== null) visit(inner)
      }
    }
    visit(value)
    const [holder, key] = places[below(places.length)] ?? [{}, ""]
    holder[key] = structuredClone(oddities[below(oddities.length)])
  }
  return lines.with(at, start + JSON.stringify(value)).join("\n")
}

const mutations = function*(body: string, first: number, count: number) {
  const bytes = bytesOf(body)
  for (let seed = first; seed < first + count; seed++) {
    const random = seeded(seed)
    const input = random() < 0.5 ? bent(bytes, random) : bytesOf(odd(body, random))
    yield [() => `bent with seed ${seed}`, input] as const
  }
}

/** A value of a body, or of a text of JSON inside it, becomes one of many levels. */
const nested = (body: string, random: () => number, depth: number): string => {
  const below = (n: number): number => Math.floor(random() * n)
  const levels = random() < 0.5
    ? "[".repeat(depth) + "]".repeat(depth)
    : "{\"a\":".repeat(depth) + "1" + "}".repeat(depth)
  const places = [...body.matchAll(/:(?:"(?:[^"\\]|\\.)*"|-?\d+|null|true|false)/g)]
  const place = places[below(places.length)]
  if (place === undefined) return levels
  const value = random() < 0.5 ? levels : JSON.stringify(levels)
  return `${body.slice(0, place.index)}:${value}${body.slice(place.index + place[0].length)}`
}

/** Events are left out, told twice, or change places. */
const shuffled = (body: string, random: () => number): string => {
  const below = (n: number): number => Math.floor(random() * n)
  const separator = /\r?\n\r?\n/.exec(body)?.[0] ?? "\n"
  const events = body.split(separator)
  for (let i = 1 + below(3); i > 0; i--) {
    const [event = ""] = random() < 0.6 ? events.splice(below(events.length), 1) : [events[below(events.length)]!]
    if (random() < 0.7) events.splice(below(events.length + 1), 0, event)
  }
  return events.join(separator)
}

// `npm run fuzz` looks at many more, and deeper.
const thorough = process.env["MODE"] === "fuzz"
const patience = thorough ? 300_000 : 20_000

let total = 0

describe("decoding never throws", () => {
  it("looks at twenty specimens or more", () => assert.isAtLeast(specimens.length, 20))

  for (const specimen of specimens) {
    const bytes = bytesOf(specimen.body)

    it.live(`${specimen.name}: cut at every byte`, () =>
      Effect.gen(function*() {
        const play = yield* player(specimen)
        const full = yield* play(bytes)
        const whole = digest(full)
        const good = specimen.status === undefined && !failing.test(specimen.body)
        assert.strictEqual(full.error === undefined && whole.text + whole.reasoning !== "", good)
        total += yield* playAll(specimen, truncations(bytes), (outcome) => {
          const { finish, reasoning, text, toolCalls } = digest(outcome)
          if (outcome.error === undefined) {
            // Only what comes after the terminal signal may be missing.
            assert.deepStrictEqual([text, reasoning, toolCalls], [whole.text, whole.reasoning, whole.toolCalls])
            assert.strictEqual(finish?.reason, whole.finish?.reason)
          } else if (specimen.status !== undefined) {
            assert.strictEqual(outcome.error.status, specimen.status)
          } else {
            must(whole.text.startsWith(text) && whole.reasoning.startsWith(reasoning), "made something up")
            if (specimen.streaming && full.error === undefined && text !== "") {
              const { reason } = outcome.error
              must(reason._tag === "MalformedResponse" && reason.problem === TRUNCATED, "not known as truncated")
            }
          }
        })
      }), patience)

    it.live(`${specimen.name}: bent`, () =>
      Effect.gen(function*() {
        total += yield* playAll(specimen, mutations(specimen.body, hash(specimen.name), 200), ({ error }) => {
          if (specimen.status !== undefined) assert.strictEqual(error?.status, specimen.status)
        })
      }), patience)
  }

  it("was enough", () => assert.isAtLeast(total, 10_000))
})

// -----------------------------------------------------------------------------
// at random
// -----------------------------------------------------------------------------

const [runs, depth] = thorough ? [50_000, 50_000] : [2000, 5000]
const seed = Number(process.env["FUZZ_SEED"] ?? Date.now() % 1_000_000_000)

describe(`at random, with FUZZ_SEED=${seed}`, () => {
  for (const [protocol, makes] of protocols) {
    const known = specimens.filter(({ make }) => makes.includes(make))

    it.live(`${protocol}: ${runs} bodies and streams`, () =>
      Effect.gen(function*() {
        const players = yield* Effect.forEach(known, player)
        for (let i = 0; i < runs; i++) {
          const random = seeded(seed + i)
          const at = Math.floor(random() * known.length)
          const { body, name } = known[at]!
          const kind = random()
          const input = kind < 0.03
            ? bytesOf(nested(body, random, random() < 0.2 ? 990 : depth))
            : kind < 0.3
            ? bytesOf(shuffled(body, random))
            : kind < 0.4
            ? bytesOf(shuffled(odd(body, random), random))
            : kind < 0.75
            ? bytesOf(odd(body, random))
            : bent(bytesOf(body), random)
          yield* Effect.flatMap(
            players[at]!(input),
            (outcome) => Effect.sync(() => checkOutcome(outcome, input.length))
          ).pipe(
            Effect.timeoutOrElse({ duration: "30 seconds", orElse: () => Effect.die(new Error("hangs")) }),
            Effect.catchDefect((defect) =>
              Effect.die(new Error(`${name}, run ${i} of FUZZ_SEED=${seed}: ${String(defect)}`, { cause: defect }))
            )
          )
        }
      }), thorough ? 1_800_000 : 120_000)
  }
})

// -----------------------------------------------------------------------------
// limits
// -----------------------------------------------------------------------------

const makers: ReadonlyArray<readonly [name: string, make: (maxBodyBytes: number | undefined) => Make]> = [
  ["OpenAi", (maxBodyBytes) => OpenAi.make({ apiKey, maxBodyBytes })],
  [
    "OpenAiCompatible",
    (maxBodyBytes) => OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m", maxBodyBytes })
  ],
  ["Anthropic", (maxBodyBytes) => Anthropic.make({ apiKey, maxBodyBytes })],
  ["OpenAi with responses", (maxBodyBytes) => OpenAi.make({ apiKey, api: "responses", maxBodyBytes })],
  ["Gemini", (maxBodyBytes) => Gemini.make({ apiKey, maxBodyBytes })],
  [
    "Bedrock",
    (maxBodyBytes) => Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m", maxBodyBytes })
  ],
  ["Ollama", (maxBodyBytes) => Ollama.make({ defaultModel: "m", maxBodyBytes })],
  ["Cohere", (maxBodyBytes) => Cohere.make({ apiKey, maxBodyBytes })]
]

describe.each(makers)("%s: bounds", (_, make) => {
  /** An answer that does not end: whoever does not cut it waits for ever. */
  const endless = (script: { readonly status?: number; readonly start: string; readonly bytes: number }) => {
    const chunk = new Uint8Array(65_536).fill(0x61)
    const chunks = Array.from({ length: Math.ceil(script.bytes / chunk.length) + 2 }, () => chunk)
    return serve({ status: script.status ?? 200, body: [script.start, ...chunks], after: "hang" })
  }
  const outcomeOf = (make: Make, streaming: boolean, transport: ReturnType<typeof serve>) =>
    make.pipe(
      Effect.provideService(HttpClient.HttpClient, transport.client),
      Effect.flatMap((provider) => run(provider, streaming)),
      Effect.timeout("15 seconds")
    )
  const tooLarge = "the body, or one event of it, is larger than allowed"

  for (const limit of [2000, undefined]) {
    const bytes = limit ?? 16 * 1024 * 1024
    it.live(`a body, an event and a line of more than ${bytes} bytes`, () =>
      Effect.gen(function*() {
        for (
          const [streaming, start] of [[false, "{\"id\":\""], [true, "data: {\"id\":\""], [true, ""], [
            true,
            ": "
          ]] as const
        ) {
          const transport = endless({ start, bytes })
          const { error, parts } = yield* outcomeOf(make(limit), streaming, transport)
          assert.deepStrictEqual(error?.reason, { _tag: "MalformedResponse", problem: tooLarge })
          assert.deepStrictEqual(parts, [])
          assert.strictEqual(transport.cancelled, 1)
        }
      }), 20_000)
  }

  it.live("an error body of more than 64 KiB: its status counts", () =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const transport = endless({ status: 503, start: "<html>", bytes: 65_536 })
        const { error } = yield* outcomeOf(make(undefined), streaming, transport)
        assert.deepStrictEqual(error?.reason, { _tag: "Overloaded" })
        assert.strictEqual(error?.status, 503)
        assert.strictEqual(transport.cancelled, 1)
      }
    }))
})
