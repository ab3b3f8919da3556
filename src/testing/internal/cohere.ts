// Cohere v2 chat.
import type { ErrorReason } from "../FaultServer.ts"
import {
  type Answer,
  type Context,
  dataOnly,
  type Dialect,
  event,
  fragments,
  type Frame,
  hex,
  token,
  uuid
} from "./dialect.ts"

const finishes = { stop: "COMPLETE", length: "MAX_TOKENS", "tool-calls": "TOOL_CALL", "content-filter": "ERROR" }

const callId = (given: string | undefined, name: string, context: Context, index: number): string =>
  given ?? `${name}_${token(12, context.number, index + 1).toLowerCase()}`

// `tokens` counts the chat template too, so it is what the model saw; billed units leave the template out.
const usageOf = ({ usage }: Answer) => ({
  billed_units: { input_tokens: usage.input, output_tokens: usage.output },
  tokens: { input_tokens: usage.input, output_tokens: usage.output },
  cached_tokens: usage.cached
})

const toolPlan = (answer: Answer): string => `I will use the '${answer.toolCalls[0]?.name}' tool.`

const json = (answer: Answer, context: Context): string => {
  const content = [
    ...(answer.reasoning.length > 0 ? [{ type: "thinking", thinking: answer.reasoning.join("") }] : []),
    ...(answer.text.length > 0 ? [{ type: "text", text: answer.text.join("") }] : [])
  ]
  return JSON.stringify({
    id: uuid(context.number),
    message: {
      role: "assistant",
      // Absent on a turn that only calls tools.
      ...(content.length > 0 || answer.toolCalls.length === 0 ? { content } : undefined),
      ...(answer.toolCalls.length > 0
        ? {
          tool_plan: toolPlan(answer),
          tool_calls: answer.toolCalls.map((call, i) => ({
            id: callId(call.id, call.name, context, i),
            type: "function",
            function: { name: call.name, arguments: call.params }
          }))
        }
        : undefined)
    },
    finish_reason: finishes[answer.finish],
    usage: usageOf(answer)
  })
}

type Data = { readonly type: string; readonly [key: string]: unknown }
const frame = (data: Data, content = false): Frame => ({
  text: event(data.type, JSON.stringify(data)),
  content
})
const at = (type: string, index: number, message?: object): Data => ({
  type,
  index,
  ...(message === undefined ? undefined : { delta: { message } })
})

const frames = (answer: Answer, context: Context): ReadonlyArray<Frame> => {
  const out: Array<Frame> = [frame({
    id: uuid(context.number),
    type: "message-start",
    delta: { message: { role: "assistant", content: [], tool_plan: "", tool_calls: [], citations: [] } }
  })]
  let index = 0
  const block = (kind: "thinking" | "text", chunks: ReadonlyArray<string>): void => {
    if (chunks.length === 0) return
    out.push(frame(at("content-start", index, { content: { type: kind, [kind]: "" } })))
    for (const piece of chunks) out.push(frame(at("content-delta", index, { content: { [kind]: piece } }), true))
    out.push(frame(at("content-end", index)))
    index++
  }
  block("thinking", answer.reasoning)
  block("text", answer.text)
  if (answer.toolCalls.length > 0) {
    const message = { tool_plan: toolPlan(answer) }
    out.push(frame({ type: "tool-plan-delta", delta: { message } }))
  }
  for (const [i, call] of answer.toolCalls.entries()) {
    const id = callId(call.id, call.name, context, i)
    const start = { id, type: "function", function: { name: call.name, arguments: "" } }
    out.push(frame(at("tool-call-start", i, { tool_calls: start })))
    for (const piece of fragments(call.params)) {
      out.push(frame(at("tool-call-delta", i, { tool_calls: { function: { arguments: piece } } }), true))
    }
    out.push(frame(at("tool-call-end", i)))
  }
  const delta = { finish_reason: finishes[answer.finish], usage: usageOf(answer) }
  out.push(
    frame({ type: "message-end", delta }),
    { text: dataOnly("[DONE]"), content: false }
  )
  return out
}

type Row = readonly [status: number, message: string, type?: string]

const errors: { readonly [K in ErrorReason]: Row } = {
  RateLimit: [429, "trial token rate limit exceeded, limit is 100000 tokens per minute"],
  Quota: [
    429,
    "You are using a Trial key, which is limited to 1000 API calls / month. You can continue to use the Trial key for" +
    " free or upgrade to a Production key with higher rate limits at 'https://dashboard.cohere.com/api-keys'."
  ],
  Overloaded: [503, "the service is currently overloaded, please try again later"],
  Server: [500, "internal server error, this has been reported to our developers"],
  Timeout: [504, "the request timed out"],
  Conflict: [409, "the request conflicts with another one"],
  Authentication: [
    401,
    "Incorrect API key provided: ***********. You can find your API key at https://dashboard.cohere.com/api-keys."
  ],
  Permission: [403, "you do not have permission to use this resource"],
  NotFound: [
    404,
    "model '%MODEL%' not found, make sure the correct model ID was used and that you have access to the model."
  ],
  ContextLength: [
    400,
    "too many tokens: size limit exceeded by 25836 tokens. Try using shorter or fewer inputs. The limit for this" +
    " model is 288000 tokens.",
    "TOO_MANY_TOKENS"
  ],
  PayloadTooLarge: [413, "the request is too large"],
  ContentPolicy: [498, "blocked input: please adjust the prompt, it may violate the usage policy"],
  InvalidRequest: [400, "invalid request: message must be at least 1 token long"],
  ClientClosed: [499, "the request was cancelled by the client"],
  Unknown: [405, "method not allowed"]
}

export const cohere: Dialect = {
  name: "cohere",
  early: false,
  keepAlive: ": keep-alive\n\n",
  json,
  frames,
  error: (reason, context, status) => {
    if (reason === "Quota" && status === 402) {
      return { status, type: "", message: "please check the billing details of your account" }
    }
    const [usual, message, type = ""] = errors[reason]
    return { status: usual, type, message: message.replace("%MODEL%", context.model ?? "unknown") }
  },
  errorBody: ({ message, type }, context) =>
    JSON.stringify({ ...(type === "" ? undefined : { error_type: type }), id: uuid(context.number), message }),
  errorEvent: ({ message, type }) => {
    const delta = {
      finish_reason: "ERROR",
      usage: {},
      error: message,
      ...(type === "" ? undefined : { error_type: type })
    }
    return frame({ type: "message-end", delta }).text + dataOnly("[DONE]")
  },
  errorJson: (_error, context) =>
    JSON.stringify({
      id: uuid(context.number),
      message: { role: "assistant", content: [] },
      finish_reason: "ERROR",
      usage: {}
    }),
  headers: (context, limits) => ({
    "x-debug-trace-id": hex(32, context.number),
    ...(limits === "silent" ? undefined : {
      "x-endpoint-monthly-call-limit": "1000",
      "x-trial-endpoint-call-limit": "40",
      "x-trial-endpoint-call-remaining": limits === "plenty" ? "32" : "0"
    })
  })
}
