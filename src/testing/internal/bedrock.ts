// Amazon Bedrock's Converse. Streams are binary frames, written here by hand: the codec that reads them is another's.
import { crc32 } from "node:zlib"
import type { ErrorReason } from "../FaultServer.ts"
import { type Answer, type Context, type Dialect, fragments, type Frame, token, uuid } from "./dialect.ts"

const stopReasons = {
  stop: "end_turn",
  length: "max_tokens",
  "tool-calls": "tool_use",
  "content-filter": "guardrail_intervened"
}

const callId = (given: string | undefined, context: Context, index: number): string =>
  given ?? `tooluse_${token(22, context.number, index + 1)}`
const signature = (context: Context): string => `${token(64, context.number, 62)}==`

// inputTokens leaves the cached ones out.
const usageOf = ({ usage }: Answer) => ({
  inputTokens: usage.input - usage.cached,
  outputTokens: usage.output,
  totalTokens: usage.input + usage.output,
  cacheReadInputTokens: usage.cached,
  cacheWriteInputTokens: 0
})

const parsed = (params: string): unknown => {
  try {
    return JSON.parse(params)
  } catch {
    return params
  }
}

const json = (answer: Answer, context: Context): string =>
  JSON.stringify({
    metrics: { latencyMs: 7 },
    output: {
      message: {
        role: "assistant",
        content: [
          ...(answer.reasoning.length > 0
            ? [{
              reasoningContent: { reasoningText: { text: answer.reasoning.join(""), signature: signature(context) } }
            }]
            : []),
          ...(answer.text.length > 0 ? [{ text: answer.text.join("") }] : []),
          ...answer.toolCalls.map((call, i) => ({
            toolUse: { toolUseId: callId(call.id, context, i), name: call.name, input: parsed(call.params) }
          }))
        ]
      }
    },
    stopReason: stopReasons[answer.finish],
    usage: usageOf(answer)
  })

/** A frame of AWS's event stream, a character per byte. */
const packed = (headers: Readonly<Record<string, string>>, body: string): string => {
  const head = Buffer.concat(
    Object.entries(headers).map(([name, value]) => {
      const out = Buffer.alloc(name.length + value.length + 4)
      out.writeUInt8(name.length, 0)
      out.write(name, 1)
      out.writeUInt8(7, name.length + 1) // a text follows
      out.writeUInt16BE(value.length, name.length + 2)
      out.write(value, name.length + 4)
      return out
    })
  )
  const data = Buffer.from(body)
  const frame = Buffer.alloc(head.length + data.length + 16)
  frame.writeUInt32BE(frame.length, 0)
  frame.writeUInt32BE(head.length, 4)
  frame.writeUInt32BE(crc32(frame.subarray(0, 8)), 8)
  head.copy(frame, 12)
  data.copy(frame, 12 + head.length)
  frame.writeUInt32BE(crc32(frame.subarray(0, -4)), frame.length - 4)
  return frame.toString("latin1")
}

const json8 = ":content-type"
const frame = (name: string, data: object, content = false): Frame => ({
  text: packed({ ":event-type": name, [json8]: "application/json", ":message-type": "event" }, JSON.stringify(data)),
  content
})

const frames = (answer: Answer, context: Context): ReadonlyArray<Frame> => {
  const out: Array<Frame> = [frame("messageStart", { role: "assistant", p: "abc" })]
  let contentBlockIndex = 0
  const delta = (delta: object, content = true): void => {
    out.push(frame("contentBlockDelta", { contentBlockIndex, delta, p: "abcdefgh" }, content))
  }
  const end = (): void => {
    out.push(frame("contentBlockStop", { contentBlockIndex, p: "ab" }))
    contentBlockIndex++
  }
  if (answer.reasoning.length > 0) {
    for (const text of answer.reasoning) delta({ reasoningContent: { text } })
    delta({ reasoningContent: { signature: signature(context) } }, false)
    end()
  }
  if (answer.text.length > 0) {
    for (const text of answer.text) delta({ text })
    end()
  }
  for (const [i, call] of answer.toolCalls.entries()) {
    const start = { toolUse: { toolUseId: callId(call.id, context, i), name: call.name } }
    out.push(frame("contentBlockStart", { contentBlockIndex, start, p: "abcd" }))
    const pieces = call.params === "{}" ? [] : fragments(call.params)
    delta({ toolUse: { input: "" } }, false)
    for (const input of pieces) delta({ toolUse: { input } })
    end()
  }
  out.push(
    frame("messageStop", { stopReason: stopReasons[answer.finish], p: "abcdef" }),
    frame("metadata", { metrics: { latencyMs: 7 }, usage: usageOf(answer), p: "a" })
  )
  return out
}

const errors: { readonly [K in ErrorReason]: readonly [status: number, type: string, message: string] } = {
  RateLimit: [429, "ThrottlingException", "Too many requests, please wait before trying again."],
  Quota: [400, "ServiceQuotaExceededException", "Your request exceeds the service quota for your account."],
  Overloaded: [503, "ServiceUnavailableException", "Bedrock is unable to process your request."],
  Server: [500, "InternalServerException", "The system encountered an unexpected error during processing."],
  Timeout: [408, "ModelTimeoutException", "Model has timed out in processing the request."],
  Conflict: [409, "ConflictException", "The resource was changed by another request."],
  Authentication: [403, "UnrecognizedClientException", "The security token included in the request is invalid."],
  Permission: [403, "AccessDeniedException", "You don't have access to the model with the specified model ID."],
  NotFound: [404, "ResourceNotFoundException", "Could not resolve the foundation model from the model identifier."],
  ContextLength: [400, "ValidationException", "Input is too long for requested model."],
  PayloadTooLarge: [413, "RequestEntityTooLargeException", "Request body is too large."],
  ContentPolicy: [400, "ValidationException", "Output blocked by content filtering policy"],
  InvalidRequest: [400, "ValidationException", "A conversation must start with a user message."],
  ClientClosed: [499, "ClientClosedRequest", "Client disconnected"],
  Unknown: [405, "MethodNotAllowed", "Method Not Allowed"]
}

export const bedrock: Dialect = {
  name: "bedrock",
  early: false,
  // It sends none.
  keepAlive: "",
  binary: "application/vnd.amazon.eventstream",
  json,
  frames,
  error: (reason) => {
    const [status, type, message] = errors[reason]
    return { status, type, message }
  },
  errorBody: ({ message }) => JSON.stringify({ message }),
  errorEvent: ({ message, type }) =>
    packed({
      ":exception-type": `${type.slice(0, 1).toLowerCase()}${type.slice(1)}`,
      [json8]: "application/json",
      ":message-type": "exception"
    }, JSON.stringify({ message })),
  errorJson: ({ message, type }) => JSON.stringify({ error: { code: type, message } }),
  // The frame is whole, what it holds is not.
  broken: (text) =>
    packed({ ":event-type": "contentBlockDelta", [json8]: "application/json", ":message-type": "event" }, text),
  headers: (context, _, failed) => ({
    "x-amzn-requestid": uuid(context.number),
    ...(failed === undefined ? undefined : { "x-amzn-errortype": `${errors[failed][1]}:http://internal.amazon.com/` })
  })
}
