// Anthropic messages.
import type { ErrorReason } from "../FaultServer.ts"
import { type Answer, type Context, type Dialect, event, fragments, type Frame, token } from "./dialect.ts"

const MODEL = "claude-haiku-4-5-20251001"
const stopReasons = { stop: "end_turn", length: "max_tokens", "tool-calls": "tool_use", "content-filter": "refusal" }

const idOf = (context: Context): string => `msg_01${token(22, context.number)}`
const requestId = (context: Context): string => `req_011C${token(20, context.number, 63)}`
const callId = (given: string | undefined, context: Context, index: number): string =>
  given ?? `toolu_01${token(22, context.number, index + 1)}`
const signature = (context: Context): string => `${token(64, context.number, 62)}==`
const stopDetails = (answer: Answer) =>
  answer.finish === "content-filter" ? { type: "refusal", category: null, explanation: null } : null

// input_tokens leaves the cached ones out.
const inputUsage = ({ usage }: Answer) => ({
  input_tokens: usage.input - usage.cached,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: usage.cached
})
const outputUsage = ({ usage }: Answer) => ({
  output_tokens: usage.output,
  ...(usage.reasoning > 0 ? { output_tokens_details: { thinking_tokens: usage.reasoning } } : undefined)
})
const plan = { service_tier: "standard", inference_geo: "not_available" }
const cacheCreation = { cache_creation: { ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 0 } }

const parsed = (params: string): unknown => {
  try {
    return JSON.parse(params)
  } catch {
    return params
  }
}

const json = (answer: Answer, context: Context): string =>
  JSON.stringify({
    model: context.model ?? MODEL,
    id: idOf(context),
    type: "message",
    role: "assistant",
    content: [
      ...(answer.reasoning.length > 0
        ? [{ type: "thinking", thinking: answer.reasoning.join(""), signature: signature(context) }]
        : []),
      ...(answer.text.length > 0 ? [{ type: "text", text: answer.text.join("") }] : []),
      ...answer.toolCalls.map((call, i) => ({
        type: "tool_use",
        id: callId(call.id, context, i),
        name: call.name,
        input: parsed(call.params)
      }))
    ],
    stop_reason: stopReasons[answer.finish],
    stop_sequence: null,
    stop_details: stopDetails(answer),
    usage: { ...inputUsage(answer), ...cacheCreation, ...outputUsage(answer), ...plan }
  })

// The real one pads its JSON with spaces.
const padded = (data: object): string => {
  const text = JSON.stringify(data)
  return `${text.slice(0, -1)}${" ".repeat(text.length * 7 % 16)}}`
}
type Data = { readonly type: string; readonly [key: string]: unknown }
const frame = (data: Data, content = false): Frame => ({
  text: event(data.type, padded(data)),
  content
})
const PING = event("ping", `{"type": "ping"}`)

const frames = (answer: Answer, context: Context): ReadonlyArray<Frame> => {
  const out: Array<Frame> = []
  let index = 0
  const block = (start: object, deltas: ReadonlyArray<Frame>): void => {
    out.push(frame({ type: "content_block_start", index, content_block: start }))
    if (index === 0) out.push({ text: PING, content: false })
    out.push(...deltas, frame({ type: "content_block_stop", index }))
    index++
  }
  const delta = (value: object, content = true): Frame =>
    frame({ type: "content_block_delta", index, delta: value }, content)

  out.push(frame({
    type: "message_start",
    message: {
      model: context.model ?? MODEL,
      id: idOf(context),
      type: "message",
      role: "assistant",
      content: [],
      stop_reason: null,
      stop_sequence: null,
      stop_details: null,
      usage: { ...inputUsage(answer), ...cacheCreation, output_tokens: 1, ...plan }
    }
  }))
  if (answer.reasoning.length > 0) {
    block({ type: "thinking", thinking: "", signature: "" }, [
      ...answer.reasoning.map((thinking) => delta({ type: "thinking_delta", thinking })),
      delta({ type: "signature_delta", signature: signature(context) }, false)
    ])
  }
  if (answer.text.length > 0) {
    block({ type: "text", text: "" }, answer.text.map((text) => delta({ type: "text_delta", text })))
  }
  for (const [i, call] of answer.toolCalls.entries()) {
    // A tool without arguments sends nothing but the empty first delta.
    const pieces = call.params === "{}" ? [] : fragments(call.params)
    block(
      { type: "tool_use", id: callId(call.id, context, i), name: call.name, input: {} },
      [
        delta({ type: "input_json_delta", partial_json: "" }, false),
        ...pieces.map((piece) => delta({ type: "input_json_delta", partial_json: piece }))
      ]
    )
  }
  if (index === 0) out.push({ text: PING, content: false })
  out.push(
    frame({
      type: "message_delta",
      delta: { stop_reason: stopReasons[answer.finish], stop_sequence: null, stop_details: stopDetails(answer) },
      usage: { ...inputUsage(answer), ...outputUsage(answer) }
    }),
    frame({ type: "message_stop" })
  )
  return out
}

const errors: { readonly [K in ErrorReason]: readonly [status: number, type: string, message: string] } = {
  RateLimit: [
    429,
    "rate_limit_error",
    "This request would exceed your account's rate limit. Please try again later."
  ],
  // Money trouble comes as an invalid request; 402 and 429 have forms of their own below.
  Quota: [
    400,
    "invalid_request_error",
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase" +
    " credits."
  ],
  Overloaded: [529, "overloaded_error", "Overloaded"],
  Server: [500, "api_error", "Internal server error"],
  Timeout: [504, "timeout_error", "Request timed out"],
  Conflict: [409, "conflict_error", "The resource was changed by another request."],
  Authentication: [401, "authentication_error", "invalid x-api-key"],
  Permission: [403, "permission_error", "Your API key does not have permission to use the specified resource."],
  NotFound: [404, "not_found_error", "model: %MODEL%"],
  ContextLength: [400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"],
  PayloadTooLarge: [413, "request_too_large", "Request exceeds the maximum size"],
  ContentPolicy: [400, "invalid_request_error", "Output blocked by content filtering policy"],
  InvalidRequest: [400, "invalid_request_error", "messages: roles must alternate between \"user\" and \"assistant\""],
  ClientClosed: [499, "invalid_request_error", "Client disconnected"],
  Unknown: [405, "invalid_request_error", "Method Not Allowed"]
}

const retried = new Set<ErrorReason>(["RateLimit", "Overloaded", "Server", "Timeout", "Conflict"])

const LIMITS = { requests: 20_000, tokens: 12_000_000, "input-tokens": 10_000_000, "output-tokens": 2_000_000 }
const rfc3339 = (epochMillis: number): string => `${new Date(epochMillis).toISOString().slice(0, 19)}Z`

export const anthropic: Dialect = {
  name: "anthropic",
  early: true,
  keepAlive: PING,
  json,
  frames,
  error: (reason, context, status) => {
    if (reason === "Quota" && status === 402) {
      return { status, type: "billing_error", message: "There is an issue with your billing or payment information." }
    }
    if (reason === "Quota" && status === 429) {
      return {
        status,
        type: "rate_limit_error",
        code: "enforced_spend_limit_reached",
        message: "Your organization has reached its monthly spend cap."
      }
    }
    const [usual, type, message] = errors[reason]
    return { status: usual, type, message: message.replace("%MODEL%", context.model ?? MODEL) }
  },
  // The size check is made at the edge, which knows neither the outer type nor a request id.
  errorBody: ({ type, message, code }, context) =>
    type === "request_too_large"
      ? JSON.stringify({ error: { type, message } })
      : JSON.stringify({
        type: "error",
        error: { type, message, ...(typeof code === "string" ? { details: { error_code: code } } : undefined) },
        request_id: requestId(context)
      }),
  errorEvent: ({ type, message }) => event("error", padded({ type: "error", error: { details: null, type, message } })),
  errorJson: ({ type, message }, context) =>
    JSON.stringify({ type: "error", error: { type, message }, request_id: requestId(context) }),
  headers: (context, limits, failed) => {
    const out: Record<string, string> = { "request-id": requestId(context) }
    if (failed !== undefined && failed !== "Quota") out["x-should-retry"] = String(retried.has(failed))
    if (limits === "silent") return out
    for (const [name, limit] of Object.entries(LIMITS)) {
      const exhausted = limits !== "plenty" && name === "requests" ? limits.seconds : undefined
      out[`anthropic-ratelimit-${name}-limit`] = String(limit)
      out[`anthropic-ratelimit-${name}-remaining`] = exhausted === undefined ? String(limit - 1) : "0"
      out[`anthropic-ratelimit-${name}-reset`] = rfc3339(context.epochMillis + (exhausted ?? 0) * 1000)
    }
    return out
  }
}
