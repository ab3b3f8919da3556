// Recorded HTTP exchanges against what they must decode to. The recordings belong to their sources and live outside
// the project; without them this file skips, and the samples in the other files still hold.
import { assert, describe, it } from "@effect/vitest"
import { classify, type Reason } from "effect-resilient-llm/LlmError"
import { Anthropic, Cohere, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { existsSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { apiKey, digest, hash, type Make, play, randomChunks, seeded } from "./support.ts"

const root = resolve(
  fileURLToPath(new URL("../..", import.meta.url)),
  process.env["LLM_FIXTURES"] ?? "../shared/fixtures"
)
const present = existsSync(join(root, "expected.json"))
const read = (file: string) => JSON.parse(readFileSync(join(root, file), "utf8"))
const expected: Record<string, any> = present ? read("expected.json") : {}

const adapter = (row: any): Make | undefined => {
  switch (row.endpoint) {
    case "messages":
      return Anthropic.make({ apiKey })
    case "v2.chat":
      return Cohere.make({ apiKey })
    case "chat.completions":
      return row.provider === "openai"
        ? OpenAi.make({ apiKey })
        : OpenAiCompatible.make({ id: row.provider, apiKey, baseUrl: "https://llm.test/v1", defaultModel: "model" })
    default:
      return undefined
  }
}

const reasons: Record<string, Reason["_tag"]> = {
  authentication: "Authentication",
  permission: "Permission",
  "not-found": "NotFound",
  "invalid-request": "InvalidRequest",
  "context-length": "ContextLength",
  "content-policy": "ContentPolicy",
  "payload-too-large": "PayloadTooLarge",
  "rate-limit": "RateLimit",
  quota: "Quota",
  overloaded: "Overloaded",
  server: "Server",
  timeout: "Timeout",
  conflict: "Conflict",
  "client-closed": "ClientClosed",
  "truncated-stream": "MalformedResponse",
  "malformed-response": "MalformedResponse"
}

const absent = (value: unknown): unknown => value === null ? undefined : value

/** Each field: what is told, and what we got. */
const compare = (
  row: any,
  exchange: any,
  outcome: Parameters<typeof digest>[0]
): ReadonlyArray<[string, unknown, unknown]> => {
  const got = digest(outcome)
  const { error } = outcome
  const fields: Array<[string, unknown, unknown]> = [["text", row.text ?? "", got.text]]
  const check = (name: string, given: unknown, value: unknown): void => {
    if (given !== undefined && given !== null) fields.push([name, given, value])
  }
  check("requestId", row.requestId, got.requestId)
  check("reasoning", row.toolPlan ?? row.reasoningText, got.reasoning)
  if (row.errorCategory !== undefined) {
    fields.push(["error", true, error !== undefined])
    fields.push(["finish", undefined, got.finish])
    fields.push(["toolCalls", row.toolCalls, got.toolCalls])
    if (row.ambiguous === undefined) {
      fields.push(["errorCategory", reasons[row.errorCategory], error?.reason._tag])
      fields.push(["retryable", row.retryable, classify(error).retry])
      fields.push(["failover", row.failover, classify(error).failover !== false])
      fields.push([
        "truncated",
        row.errorCategory === "truncated-stream",
        error?.message.includes("terminal event") ?? false
      ])
    }
    fields.push(["status", row.status >= 400 ? row.status : undefined, error?.status])
    check("xShouldRetry", row.xShouldRetry, error?.shouldRetry)
    check(
      "retryAfterMs",
      row.retryAfterMs ?? row.retryAfterMsFromMessage,
      error?.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
    )
    if (error !== undefined && exchange.request?.headers !== undefined) {
      fields.push(["leaks", false, error.message.includes(row.errorMessage || "\0")])
    }
    return fields
  }
  const { finish } = got
  fields.push(["error", undefined, error === undefined ? undefined : `${error.message} ${error.code ?? ""}`])
  if (row.ambiguous === undefined) fields.push(["finishReason", row.finishReason, finish?.reason])
  fields.push([
    "toolCalls",
    row.toolCalls.map((call: any) => ({ name: call.name, params: call.arguments })),
    got.toolCalls.map(({ name, params }) => ({ name, params }))
  ])
  row.toolCalls.forEach((call: any, i: number) => check(`toolCalls[${i}].id`, call.id, got.toolCalls[i]?.id))
  fields.push(["inputTokens", absent(row.inputTokens), finish?.usage.inputTokens.total])
  fields.push(["outputTokens", absent(row.outputTokens), finish?.usage.outputTokens.total])
  check("cachedInputTokens", row.cachedInputTokens, finish?.usage.inputTokens.cacheRead)
  check("cacheWriteInputTokens", row.cacheWriteInputTokens, finish?.usage.inputTokens.cacheWrite)
  check("uncachedInputTokens", row.uncachedInputTokens, finish?.usage.inputTokens.uncached)
  check("reasoningTokens", row.reasoningTokens, finish?.usage.outputTokens.reasoning)
  check("refusal", row.refusal, finish?.metadata?.["refusal"])
  fields.push(["finish is last", "finish", outcome.parts[outcome.parts.length - 1]?.type])
  fields.push(["metadata is first", "response-metadata", outcome.parts[0]?.type])
  return fields
}

describe.skipIf(!present)(
  `recorded exchanges${present ? "" : " (skipped: no fixtures here, see LLM_FIXTURES)"}`,
  () => {
    const covered = Object.entries(expected).filter(([, row]) => adapter(row) !== undefined)

    it("covers the endpoints of our adapters", () => {
      assert.isAbove(covered.length, 100)
    })

    for (const [file, row] of covered) {
      it.effect(file, () =>
        Effect.gen(function*() {
          const exchange = read(file)
          const { body, headers, status } = exchange.response
          const random = seeded(hash(file))
          for (let round = 0; round < 3; round++) {
            const outcome = yield* play(
              adapter(row)!,
              { status, headers, body: randomChunks(new TextEncoder().encode(body), random) },
              row.streaming
            )
            for (const [field, want, got] of compare(row, exchange, outcome)) {
              assert.deepStrictEqual(
                got,
                want,
                `${file}\n  ${field}: expected ${JSON.stringify(want)}, got ${JSON.stringify(got)}`
              )
            }
          }
        }))
    }
  }
)
