// OpenAI chat completions.
import type { ErrorReason } from "../FaultServer.ts"
import { type Answer, type Context, dataOnly, type Dialect, fragments, type Frame, hex, token } from "./dialect.ts"

const MODEL = "gpt-4o-mini-2024-07-18"
const FINGERPRINT = "fp_07871e2ad8"
const finishes = { stop: "stop", length: "length", "tool-calls": "tool_calls", "content-filter": "content_filter" }

const idOf = (context: Context): string => `chatcmpl-${token(29, context.number)}`
const callId = (given: string | undefined, context: Context, index: number): string =>
  given ?? `call_${token(24, context.number, index + 1)}`

const usageOf = ({ usage }: Answer) => ({
  prompt_tokens: usage.input,
  completion_tokens: usage.output,
  total_tokens: usage.input + usage.output,
  prompt_tokens_details: { cached_tokens: usage.cached, audio_tokens: 0 },
  completion_tokens_details: {
    reasoning_tokens: usage.reasoning,
    audio_tokens: 0,
    accepted_prediction_tokens: 0,
    rejected_prediction_tokens: 0
  }
})

const json = (answer: Answer, context: Context): string =>
  JSON.stringify({
    id: idOf(context),
    object: "chat.completion",
    created: Math.floor(context.epochMillis / 1000),
    model: context.model ?? MODEL,
    choices: [{
      index: 0,
      message: {
        role: "assistant",
        content: answer.text.length === 0 && answer.toolCalls.length > 0 ? null : answer.text.join(""),
        // Not OpenAI's own: the field that compatible servers use.
        ...(answer.reasoning.length > 0 ? { reasoning_content: answer.reasoning.join("") } : undefined),
        ...(answer.toolCalls.length > 0
          ? {
            tool_calls: answer.toolCalls.map((call, i) => ({
              id: callId(call.id, context, i),
              type: "function",
              function: { name: call.name, arguments: call.params }
            }))
          }
          : undefined),
        refusal: null,
        annotations: []
      },
      logprobs: null,
      finish_reason: finishes[answer.finish]
    }],
    usage: usageOf(answer),
    service_tier: "default",
    system_fingerprint: FINGERPRINT
  })

const frames = (answer: Answer, context: Context): ReadonlyArray<Frame> => {
  const head = {
    id: idOf(context),
    object: "chat.completion.chunk",
    created: Math.floor(context.epochMillis / 1000),
    model: context.model ?? MODEL,
    service_tier: "default",
    system_fingerprint: FINGERPRINT
  }
  const chunk = (delta: object, finish: string | null, content: boolean): Frame => ({
    text: dataOnly(JSON.stringify({
      ...head,
      choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
      ...(context.includeUsage ? { usage: null } : undefined)
    })),
    content
  })
  const onlyTools = answer.text.length === 0 && answer.toolCalls.length > 0
  const out = [chunk({ role: "assistant", content: onlyTools ? null : "", refusal: null }, null, false)]
  for (const piece of answer.reasoning) out.push(chunk({ content: null, reasoning_content: piece }, null, true))
  for (const piece of answer.text) out.push(chunk({ content: piece }, null, true))
  for (const [index, call] of answer.toolCalls.entries()) {
    const start = { name: call.name, arguments: "" }
    const id = callId(call.id, context, index)
    out.push(chunk({ tool_calls: [{ index, id, type: "function", function: start }] }, null, false))
    for (const piece of fragments(call.params)) {
      out.push(chunk({ tool_calls: [{ index, function: { arguments: piece } }] }, null, true))
    }
  }
  out.push(chunk({}, finishes[answer.finish], false))
  if (context.includeUsage) {
    out.push({ text: dataOnly(JSON.stringify({ ...head, choices: [], usage: usageOf(answer) })), content: false })
  }
  out.push({ text: dataOnly("[DONE]"), content: false })
  return out
}

type Row = readonly [status: number, type: string, code: string | null, message: string, param?: string]

const errors: { readonly [K in ErrorReason]: Row } = {
  // The sentence about billing is real, and has fooled classifiers that look for words.
  RateLimit: [
    429,
    "requests",
    "rate_limit_exceeded",
    "Rate limit reached for %MODEL% in organization org-simulated on requests per min (RPM): Limit 3, Used 3," +
    " Requested 1.%WAIT% Visit https://platform.openai.com/account/rate-limits to learn more. You can" +
    " increase your rate limit by adding a payment method to your account at" +
    " https://platform.openai.com/account/billing."
  ],
  Quota: [
    429,
    "insufficient_quota",
    "insufficient_quota",
    "You exceeded your current quota, please check your plan and billing details. For more information on this error," +
    " read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
  ],
  Overloaded: [
    503,
    "service_unavailable_error",
    "server_is_overloaded",
    "Our servers are currently overloaded. Please try again later."
  ],
  Server: [500, "server_error", null, "The server had an error processing your request. Sorry about that!"],
  Timeout: [504, "timeout_error", "timeout", "The request timed out. Please try again."],
  Conflict: [409, "conflict_error", null, "The resource was updated by another request."],
  Authentication: [
    401,
    "invalid_request_error",
    "invalid_api_key",
    "Incorrect API key provided: sk-****. You can find your API key at https://platform.openai.com/account/api-keys."
  ],
  Permission: [
    403,
    "request_forbidden",
    "unsupported_country_region_territory",
    "Country, region, or territory not supported"
  ],
  NotFound: [
    404,
    "invalid_request_error",
    "model_not_found",
    "The model `%MODEL%` does not exist or you do not have access to it."
  ],
  ContextLength: [
    400,
    "invalid_request_error",
    "context_length_exceeded",
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 250000 tokens." +
    " Please reduce the length of the messages.",
    "messages"
  ],
  PayloadTooLarge: [413, "invalid_request_error", null, "The request is too large."],
  ContentPolicy: [
    400,
    "invalid_request_error",
    "content_policy_violation",
    "Your request was rejected as a result of our safety system."
  ],
  InvalidRequest: [
    400,
    "invalid_request_error",
    "unsupported_parameter",
    "Unsupported parameter: 'stop' is not supported with this model.",
    "stop"
  ],
  ClientClosed: [499, "invalid_request_error", null, "The client closed the connection."],
  Unknown: [405, "invalid_request_error", null, "Not allowed here."]
}

export const openai: Dialect = {
  name: "openai",
  early: false,
  keepAlive: ": keep-alive\n\n",
  json,
  frames,
  error: (reason, context, _status, wait) => {
    const [status, type, code, message, param] = errors[reason]
    return {
      status,
      type,
      code,
      param: param ?? null,
      message: message
        .replace("%MODEL%", context.model ?? MODEL)
        .replace("%WAIT%", wait === undefined ? "" : ` Please try again in ${wait}s.`)
    }
  },
  errorBody: ({ message, type, param = null, code = null }) =>
    JSON.stringify({ error: { message, type, param, code } }, null, 2),
  errorEvent: ({ message, type, param = null, code = null }) =>
    dataOnly(JSON.stringify({ error: { message, type, param, code } })) + dataOnly("[DONE]"),
  errorJson: ({ message, type, param = null, code = null }) =>
    JSON.stringify({ error: { message, type, param, code } }),
  headers: (context, limits) => ({
    "openai-processing-ms": "365",
    "openai-version": "2020-10-01",
    "x-request-id": `req_${hex(32, context.number)}`,
    ...(limits === "silent" ? undefined : {
      "x-ratelimit-limit-requests": "10000",
      "x-ratelimit-limit-tokens": "30000000",
      "x-ratelimit-remaining-requests": limits === "plenty" ? "9999" : "0",
      "x-ratelimit-remaining-tokens": "29997985",
      "x-ratelimit-reset-requests": limits === "plenty" ? "6ms" : `${limits.seconds}s`,
      "x-ratelimit-reset-tokens": "4ms"
    })
  })
}
