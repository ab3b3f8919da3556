// Turns a step into what will happen on the wire, as data. No sockets, no timers.
import type {
  Duplicate,
  ErrorEvent,
  Fault,
  MalformedJson,
  Ok,
  ResetInBody,
  Stall,
  Status,
  Truncate
} from "../FaultServer.ts"
import { type Answer, completeAnswer, type Context, type Dialect, type Frame, reasonOfStatus } from "./dialect.ts"

export interface Plan {
  /** Milliseconds before anything. */
  readonly before: number
  /** Absent: headers never come. */
  readonly head: { readonly status: number; readonly headers: Readonly<Record<string, string>> } | undefined
  /** Sent together with the headers. */
  readonly opening: string
  /** Milliseconds of silence after that. */
  readonly silence: number
  /** What breaks the silence, and a stall. */
  readonly keepAlive: { readonly text: string; readonly every: number } | undefined
  readonly body: ReadonlyArray<string | Uint8Array>
  /** Milliseconds between two pieces of the body. */
  readonly gap: number
  readonly ending: "end" | "stall" | "reset"
  /** A client that got all of it has an answer. */
  readonly whole: boolean
}

export interface Surroundings {
  readonly dialect: Dialect
  readonly context: Context
  readonly streaming: boolean
  /** Milliseconds before every answer. */
  readonly latency: number
  readonly reply: () => string | undefined
  /** From 0 inclusive to 1 exclusive. */
  readonly random: () => number
}

const never: Plan = {
  before: 0,
  head: undefined,
  opening: "",
  silence: 0,
  keepAlive: undefined,
  body: [],
  gap: 0,
  ending: "stall",
  whole: false
}

const GARBAGE = "{\"broken\": tru"

export const plan = (fault: Fault, around: Surroundings): Plan => {
  if (fault._tag === "Hang") return never
  const before = around.latency + (fault.delayMillis ?? 0)
  switch (fault._tag) {
    case "ResetBeforeHeaders":
      return { ...never, before, ending: "reset" }
    case "Status":
      return { ...never, before, ...failure(fault, around), ending: "end" }
    case "EmptyBody":
      return { ...never, before, head: head(around), ending: "end" }
    case "KeepAlives":
      return {
        ...never,
        before,
        head: head(around),
        silence: fault.forMillis ?? Infinity,
        keepAlive: keepAlive(fault.everyMillis, around),
        ending: "end"
      }
    case "Raw": {
      const bytes = typeof fault.body === "string" ? new TextEncoder().encode(fault.body) : fault.body
      return {
        ...never,
        before,
        head: { status: fault.status ?? 200, headers: withoutFraming(fault.headers ?? {}) },
        body: cut(bytes, fault.chunkBytes, around.random),
        gap: fault.chunkDelayMillis ?? 0,
        ending: "end",
        whole: (fault.status ?? 200) < 300
      }
    }
    default: {
      const answer = completeAnswer(fault, around.reply(), around.context)
      const body = around.streaming ? streamed(fault, answer, around) : whole(fault, answer, around)
      return {
        before,
        head: head(around, fault.headers),
        silence: fault.firstTokenMillis ?? 0,
        keepAlive: fault.keepAliveMillis === undefined ? undefined : keepAlive(fault.keepAliveMillis, around),
        gap: fault.chunkDelayMillis ?? 0,
        ending: fault._tag === "Stall" ? "stall" : fault._tag === "ResetInBody" ? "reset" : "end",
        whole: fault._tag === "Ok",
        ...body
      }
    }
  }
}

type Answering = Ok | Duplicate | ErrorEvent | MalformedJson | ResetInBody | Stall | Truncate
type Body = Pick<Plan, "opening" | "body">

const head = (around: Surroundings, headers?: Readonly<Record<string, string>>) => ({
  status: 200,
  headers: {
    "content-type": around.streaming
      ? around.dialect.binary ?? "text/event-stream; charset=utf-8"
      : "application/json",
    ...(around.streaming ? { "cache-control": "no-cache" } : undefined),
    ...around.dialect.headers(around.context, "plenty", undefined),
    ...headers
  }
})

// Servers that wait keep a JSON connection alive with blank lines.
const keepAlive = (every: number, around: Surroundings) => ({
  text: around.streaming ? around.dialect.keepAlive : "\n",
  every
})

export const errorOf = (
  fault: Pick<ErrorEvent, "reason" | "type" | "message">,
  around: Pick<Surroundings, "dialect" | "context">
) => {
  const error = around.dialect.error(fault.reason ?? "Overloaded", around.context)
  return { ...error, type: fault.type ?? error.type, message: fault.message ?? error.message }
}

/** Where to break: just after the `after`-th content frame, or after the last one. */
const breakAt = (frames: ReadonlyArray<Frame>, after: number): number => {
  let seen = 0
  let end = 0
  for (let i = 0; i < frames.length && seen < after; i++) {
    if (frames[i]!.content) {
      seen++
      end = i + 1
    }
  }
  return end
}

const streamed = (fault: Answering, answer: Answer, around: Surroundings): Body => {
  const { context, dialect } = around
  const all = dialect.frames(answer, context)
  let frames = all
  let tail = ""
  if (fault._tag === "Duplicate") {
    const twice = all.filter((frame) => frame.content)[fault.afterChunks ?? 0]
    frames = all.flatMap((frame) => frame === twice ? [frame, frame] : [frame])
  } else if (fault._tag !== "Ok") {
    const end = breakAt(all, fault.afterChunks ?? 0)
    frames = all.slice(0, end)
    const next = all[end]?.text ?? ""
    if (fault._tag === "ErrorEvent") tail = dialect.errorEvent(errorOf(fault, around), context)
    else if (fault._tag === "Truncate" && fault.midEvent === true) tail = next.slice(0, Math.ceil(next.length / 2))
    else if (fault._tag === "MalformedJson") {
      const name = /^event: .*\n/.exec(next)?.[0] ?? ""
      const broken = dialect.broken?.(GARBAGE) ?? `${name}data: ${GARBAGE}\n\n`
      tail = broken + all.slice(end).map((frame) => frame.text).join("")
    }
  }
  const first = dialect.early ? frames.findIndex((frame) => frame.content) : 0
  const opening = frames.slice(0, Math.max(first, 0)).map((frame) => frame.text).join("")
  const rest = frames.slice(Math.max(first, 0))
  const pieces: Array<string> = []
  let piece = ""
  for (const frame of rest) {
    piece += frame.text
    if (frame.content && (fault.chunkDelayMillis ?? 0) > 0) {
      pieces.push(piece)
      piece = ""
    }
  }
  if (piece + tail !== "") pieces.push(piece + tail)
  return { opening, body: dialect.binary === undefined ? pieces : pieces.map((text) => Buffer.from(text, "latin1")) }
}

const whole = (fault: Answering, answer: Answer, around: Surroundings): Body => {
  const { context, dialect } = around
  const body = (text: string): Body => ({ opening: "", body: text === "" ? [] : [text] })
  const json = dialect.json(answer, context)
  switch (fault._tag) {
    case "Ok":
    case "Duplicate":
      return body(json)
    case "ErrorEvent":
      return body(dialect.errorJson(errorOf(fault, around), context))
    case "MalformedJson":
      return body(GARBAGE)
    default:
      return body((fault.afterChunks ?? 0) > 0 ? json.slice(0, Math.floor(json.length / 2)) : "")
  }
}

// What a content delivery network says when the vendor behind it is gone.
const edge: { readonly [status: number]: string } = {
  502: "502 Bad Gateway",
  504: "504 Gateway Time-out",
  520: "520: Web server is returning an unknown error",
  521: "521: Web server is down",
  522: "522: Connection timed out",
  523: "523: Origin is unreachable",
  524: "524: A timeout occurred",
  525: "525: SSL handshake failed",
  526: "526: Invalid SSL certificate"
}

const failure = (
  fault: Status,
  { context, dialect }: Surroundings
): Pick<Plan, "head" | "body"> => {
  const wait = typeof fault.retryAfter === "number"
    ? fault.retryAfter
    : fault.retryAfterMs === undefined
    ? undefined
    : fault.retryAfterMs / 1000
  const hints = {
    ...(fault.retryAfter === undefined ? undefined : { "retry-after": String(fault.retryAfter) }),
    ...(fault.retryAfterMs === undefined ? undefined : { "retry-after-ms": String(fault.retryAfterMs) })
  }
  const title = fault.reason === undefined && fault.status !== undefined ? edge[fault.status] : undefined
  if (title !== undefined && fault.body === undefined) {
    const page =
      `<html>\n<head><title>${title}</title></head>\n<body>\n<center><h1>${title}</h1></center>\n</body>\n</html>\n`
    return {
      head: { status: fault.status!, headers: { "content-type": "text/html", ...hints, ...fault.headers } },
      body: [page]
    }
  }
  const reason = fault.reason ?? reasonOfStatus(fault.status ?? 500)
  const error = dialect.error(reason, context, fault.status, wait)
  const limits = reason === "Quota" || (reason === "RateLimit" && wait === undefined)
    ? "silent"
    : reason === "RateLimit" && wait !== undefined
    ? { seconds: wait }
    : "plenty"
  const body = fault.body === undefined
    ? dialect.errorBody(error, context)
    : typeof fault.body === "string"
    ? fault.body
    : JSON.stringify(fault.body)
  return {
    head: {
      status: fault.status ?? error.status,
      headers: {
        "content-type": "application/json",
        ...dialect.headers(context, limits, reason),
        ...hints,
        ...fault.headers
      }
    },
    body: body === "" ? [] : [body]
  }
}

const framing = new Set(["content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive"])
const withoutFraming = (headers: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !framing.has(name.toLowerCase())))

// Cuts anywhere, also inside a character and between the two halves of a line end.
const cut = (bytes: Uint8Array, size: number | undefined, random: () => number): ReadonlyArray<Uint8Array> => {
  const out: Array<Uint8Array> = []
  for (let from = 0; from < bytes.length;) {
    const length = size ?? 1 + Math.floor(random() * Math.max(2, bytes.length / 8))
    out.push(bytes.subarray(from, from + length))
    from += length
  }
  return out
}
