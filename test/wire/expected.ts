// The recorded exchanges, the adapter that reads each of them, and what it must find there.
import { classify, type Reason } from "effect-resilient-llm/LlmError"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Duration from "effect/Duration"
import { existsSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { apiKey, digest, type Make, type Outcome } from "../providers/support.ts"

const root = resolve(
  fileURLToPath(new URL("../..", import.meta.url)),
  process.env["LLM_FIXTURES"] ?? "../shared/fixtures"
)

export const present = existsSync(join(root, "expected.json"))

export const read = (file: string) => JSON.parse(readFileSync(join(root, file), "utf8"))

export const rows: ReadonlyArray<readonly [file: string, row: any]> = present
  ? Object.entries(read("expected.json"))
  : []

type Adapter = (provider: string, baseUrl: string) => Make

const openAi = (api: "chat" | "responses"): Adapter => (provider, baseUrl) => {
  const options = { api, apiKey, baseUrl, defaultModel: "model" }
  if (provider === "openai") return OpenAi.make(options)
  const { azure, ...presets } = OpenAiCompatible.presets
  if (provider === "azure") return OpenAiCompatible.make(azure({ api, apiKey, endpoint: baseUrl, deployment: "model" }))
  const preset = Object.entries(presets).find(([name]) =>
    name === (provider === "vercel-gateway" ? "vercel" : provider)
  )
    ?.[1]
  return OpenAiCompatible.make(preset?.(options) ?? { ...options, id: provider })
}

const gemini: Adapter = (provider, baseUrl) =>
  provider === "google-vertex"
    ? Gemini.make({ baseUrl, vertex: { project: "project", location: "global", accessToken: apiKey } })
    : Gemini.make({ baseUrl, apiKey })

/** Who reads an endpoint, given the address of a server. */
const adapters: Readonly<Record<string, Adapter>> = {
  "chat.completions": openAi("chat"),
  responses: openAi("responses"),
  messages: (_, baseUrl) => Anthropic.make({ apiKey, baseUrl }),
  "v2.chat": (_, baseUrl) => Cohere.make({ apiKey, baseUrl }),
  generateContent: gemini,
  streamGenerateContent: gemini,
  "ollama.chat": (_, baseUrl) => Ollama.make({ baseUrl, defaultModel: "model" })
}

/** The adapter for a row; none for an endpoint that has none. */
export const adapter = (row: any, baseUrl: string): Make | undefined => adapters[row.endpoint]?.(row.provider, baseUrl)

const reasons: Readonly<Record<string, Reason["_tag"]>> = {
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

type Fact = readonly [field: string, expected: unknown, got: unknown]

const known = (field: string, expected: unknown, got: unknown): ReadonlyArray<Fact> =>
  expected === undefined || expected === null ? [] : [[field, expected, got]]

const failureFacts = (row: any, { error }: Outcome, got: ReturnType<typeof digest>): ReadonlyArray<Fact> => {
  const verdict = classify(error)
  const delay = error?.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
  return [
    ["error", true, error !== undefined],
    ["finish", undefined, got.finish],
    ["toolCalls", row.toolCalls, got.toolCalls],
    ["status", row.status >= 400 ? row.status : undefined, error?.status],
    ...known("xShouldRetry", row.xShouldRetry, error?.shouldRetry),
    ...known("retryAfterMs", row.retryAfterMs ?? row.retryAfterMsFromMessage, delay),
    ["leaks the vendor's text", false, error?.message.includes(row.errorMessage || "\0") ?? false],
    ...(row.ambiguous === undefined
      ? [
        ["errorCategory", reasons[row.errorCategory], error?.reason._tag],
        ["retryable", row.retryable, verdict.retry],
        ["failover", row.failover, verdict.failover !== false],
        [
          "truncated",
          row.errorCategory === "truncated-stream",
          error?.message.includes("terminal event") ?? false
        ]
      ] as const
      : [])
  ]
}

const answerFacts = (row: any, { error, parts }: Outcome, got: ReturnType<typeof digest>): ReadonlyArray<Fact> => {
  const usage = got.finish?.usage
  return [
    ["error", undefined, error === undefined ? undefined : `${error.message} ${error.code ?? ""}`],
    [
      "toolCalls",
      row.toolCalls.map((call: any) => ({ name: call.name, params: call.arguments })),
      got.toolCalls.map(({ name, params }) => ({ name, params }))
    ],
    ...row.toolCalls.flatMap((call: any, i: number) => known(`toolCalls[${i}].id`, call.id, got.toolCalls[i]?.id)),
    ["inputTokens", row.inputTokens ?? undefined, usage?.inputTokens.total],
    ["outputTokens", row.outputTokens ?? undefined, usage?.outputTokens.total],
    ...known("cachedInputTokens", row.cachedInputTokens, usage?.inputTokens.cacheRead),
    ...known("cacheWriteInputTokens", row.cacheWriteInputTokens, usage?.inputTokens.cacheWrite),
    ...known("uncachedInputTokens", row.uncachedInputTokens, usage?.inputTokens.uncached),
    ...known("reasoningTokens", row.reasoningTokens, usage?.outputTokens.reasoning),
    ...known("refusal", row.refusal, got.finish?.metadata?.["refusal"]),
    ["last part", "finish", parts[parts.length - 1]?.type],
    ["first part", "response-metadata", parts[0]?.type],
    ...(row.ambiguous === undefined ? [["finishReason", row.finishReason, got.finish?.reason] as const] : [])
  ]
}

/** Each field: what the row tells, and what we found. */
export const compare = (row: any, outcome: Outcome): ReadonlyArray<Fact> => {
  const got = digest(outcome)
  return [
    ["text", row.text ?? "", got.text],
    ...known("requestId", row.requestId, got.requestId),
    ...known("reasoning", row.toolPlan ?? row.reasoningText, got.reasoning),
    ...(row.errorCategory === undefined ? answerFacts(row, outcome, got) : failureFacts(row, outcome, got))
  ]
}
