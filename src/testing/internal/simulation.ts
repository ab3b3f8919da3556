// The server behind FaultServer: receives, remembers, and gives every request its step.
import * as Effect from "effect/Effect"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { integer, integerIfGiven, number, optionsOf, readOptions, value } from "../../internal/option.ts"
import { retryAfterOf } from "../../providers/internal/headers.ts"
import type { Fault, Options, Recorded, Stats, Verdict, VerdictOptions } from "../FaultServer.ts"
import { anthropic } from "./anthropic.ts"
import { bedrock } from "./bedrock.ts"
import { checkFault } from "./check.ts"
import { cohere } from "./cohere.ts"
import type { Context, Dialect } from "./dialect.ts"
import { Exchange } from "./exchange.ts"
import { openai } from "./openai.ts"
import { type Plan, plan } from "./plan.ts"
import { type Entry, grade } from "./verdict.ts"

const LARGEST_BODY = 32 * 1024 * 1024

const dialects: ReadonlyArray<readonly [pathEnd: string, dialect: Dialect]> = [
  ["/chat/completions", openai],
  ["/v1/messages", anthropic],
  ["/v2/chat", cohere],
  ["/converse", bedrock],
  ["/converse-stream", bedrock]
]

const OptionsSchema = optionsOf<Options>()({
  otherwise: value((u): u is Fault => typeof u === "object" && u !== null, "a step"),
  latencyMillis: number(0, 0),
  reply: value((u): u is NonNullable<Options["reply"]> => typeof u === "function", "a function"),
  keep: integer(10_000)
})

const VerdictSchema = optionsOf<VerdictOptions>()({
  answered: integerIfGiven(0),
  pauseMillis: number(100, 0)
})

export class Simulation {
  private readonly latency: number
  private readonly otherwise: Fault
  private readonly reply: ((request: Recorded) => string) | undefined
  private readonly keep: number
  private readonly random: () => number
  private readonly server: Server
  private readonly started = performance.now()
  private readonly exchanges = new Set<Exchange>()
  private number = 0
  private script: Array<Fault> = []
  private rest: Fault
  private entries: Array<Entry> = []
  private counts = { received: 0, maxActive: 0, aborted: 0 }

  constructor(options: Options | undefined, random: () => number) {
    const { keep, latencyMillis, otherwise, reply } = readOptions(OptionsSchema, options, "FaultServer")
    this.latency = latencyMillis
    this.keep = keep
    this.reply = reply
    this.otherwise = checkFault("FaultServer.otherwise", otherwise ?? { _tag: "Ok" })
    this.rest = this.otherwise
    this.random = random
    // Connections that idle are the client's business: a server that closes them makes tests fail now and then.
    this.server = createServer(
      { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0 },
      (request, response) => this.receive(request, response)
    )
  }

  readonly start = Effect.callback<number>((resume) => {
    this.server.once("error", (error) => resume(Effect.die(error)))
    this.server.listen({ host: "127.0.0.1", port: 0, backlog: 65_535 }, () => {
      this.server.removeAllListeners("error").on("error", () => {}) // no file left for a connection: its client sees it
      resume(Effect.succeed((this.server.address() as AddressInfo).port))
    })
  })

  readonly stop = Effect.callback<void>((resume) => {
    for (const exchange of this.exchanges) exchange.stop()
    this.server.close(() => resume(Effect.void))
    this.server.closeAllConnections()
  })

  play(steps: ReadonlyArray<Fault>): void {
    this.script.push(...steps.map((step, i) => checkFault(`play[${i}]`, step)))
  }

  always(step: Fault): void {
    this.rest = checkFault("always", step)
    this.script = []
  }

  reset(): void {
    this.rest = this.otherwise
    this.script = []
    this.entries = []
    this.counts = { received: 0, maxActive: this.exchanges.size, aborted: 0 }
  }

  requests(): ReadonlyArray<Recorded> {
    return this.entries.map(({ seen }) => ({ ...seen }))
  }

  verdict(options: VerdictOptions | undefined): Verdict {
    const { answered, pauseMillis } = readOptions(VerdictSchema, options, "verdict")
    return grade(this.entries, { answered, pauseMillis })
  }

  stats(): Stats {
    return { ...this.counts, active: this.exchanges.size }
  }

  private receive(request: IncomingMessage, response: ServerResponse): void {
    const { counts } = this // those of before a reset, if one comes
    const path = request.url ?? ""
    const dialect = request.method === "POST" ? dialectOf(path) : undefined
    const number = ++this.number
    const step = dialect === undefined ? undefined : this.script.shift() ?? this.rest
    const seen: Entry["seen"] = {
      method: request.method ?? "",
      path: path.replace(secretParameter, `$1${REDACTED}`),
      ...(dialect === undefined ? undefined : { dialect: dialect.name }),
      headers: redactedHeaders(request),
      body: undefined,
      at: performance.now() - this.started,
      aborted: false
    }
    const entry: Entry = { seen, endedAt: undefined, whole: false, wait: undefined }
    this.entries.push(entry)
    if (this.entries.length > this.keep) this.entries.shift()

    let planned = unknownPath
    const exchange = new Exchange(response, (aborted, sent) => {
      this.exchanges.delete(exchange)
      seen.aborted = aborted
      entry.endedAt = performance.now() - this.started
      entry.whole = sent && planned.whole
      entry.wait = waitOf(planned)
      if (aborted) counts.aborted++
    })
    this.exchanges.add(exchange)
    counts.received++
    counts.maxActive = Math.max(counts.maxActive, this.exchanges.size)

    let chunks: Array<Buffer> = []
    let size = 0
    request.on("error", () => {}) // the response's end tells
    request.on("data", (chunk: Buffer) => {
      size += chunk.length
      if (size > LARGEST_BODY) chunks = []
      else chunks.push(chunk)
    })
    request.on("end", () => {
      seen.body = parsed(chunks)
      if (dialect !== undefined && step !== undefined) planned = this.planFor(step, dialect, seen, number, size)
      void exchange.run(planned)
    })
  }

  private planFor(step: Fault, dialect: Dialect, seen: Recorded, number: number, size: number): Plan {
    const { body } = seen
    const fields = typeof body === "object" && body !== null ? body as Record<string, unknown> : undefined
    const usage = fields?.["stream_options"] as { readonly include_usage?: unknown } | null | undefined
    const model = fields?.["model"] ?? modelIn(seen.path)
    const context: Context = {
      number,
      epochMillis: Date.now(),
      model: typeof model === "string" ? model : undefined,
      inputTokens: Math.ceil(size / 4),
      includeUsage: usage?.include_usage === true
    }
    const around = {
      dialect,
      context,
      streaming: fields?.["stream"] === true || seen.path.endsWith("/converse-stream"),
      latency: this.latency,
      reply: () => this.reply?.(seen),
      random: this.random
    }
    try {
      if (size > LARGEST_BODY) return plan({ _tag: "Status", reason: "PayloadTooLarge" }, around)
      if (fields === undefined) return plan({ _tag: "Status", reason: "InvalidRequest" }, around)
      return plan(step, around)
    } catch (cause) { // only `reply` is not ours
      return plan({ _tag: "Status", status: 500, body: `The reply function failed: ${String(cause)}` }, around)
    }
  }
}

const unknownPath: Plan = {
  before: 0,
  head: { status: 404, headers: { "content-type": "application/json" } },
  opening: "",
  silence: 0,
  keepAlive: undefined,
  body: [
    JSON.stringify({ error: { message: "Unknown path.", type: "invalid_request_error", param: null, code: null } })
  ],
  gap: 0,
  ending: "end",
  whole: false
}

/** What a refusal asks to wait, in milliseconds. */
const waitOf = ({ head }: Plan): number | undefined => {
  if (head === undefined || head.status < 400) return undefined
  const headers = Object.entries(head.headers).map(([name, value]) => [name.toLowerCase(), value] as const)
  return retryAfterOf(Object.fromEntries(headers), Date.now())
}

const dialectOf = (url: string): Dialect | undefined => {
  const path = url.split("?", 1)[0] ?? ""
  return dialects.find(([end]) => path.endsWith(end))?.[1]
}

/** Bedrock is told it there. */
const modelIn = (path: string): string | undefined => {
  const found = /\/model\/([^/]+)\/converse/.exec(path)?.[1]
  return found === undefined ? undefined : decodeURIComponent(found)
}

const parsed = (chunks: ReadonlyArray<Buffer>): unknown => {
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"))
  } catch {
    return undefined
  }
}

const REDACTED = "<redacted>"
const secretHeaders = new Set([
  "authorization",
  "proxy-authorization",
  "x-api-key",
  "api-key",
  "x-goog-api-key",
  "x-amz-security-token",
  "cookie"
])
const secretParameter = /([?&](?:key|api[-_]?key|access_token|token)=)[^&]*/giu

const redactedHeaders = (request: IncomingMessage): Readonly<Record<string, string>> => {
  const out: Record<string, string> = {}
  for (const [name, value] of Object.entries(request.headers)) {
    const text = Array.isArray(value) ? value.join(", ") : value ?? ""
    // The scheme is no secret, and worth testing.
    out[name] = secretHeaders.has(name) ? text.replace(/^(\w+ )?.*$/su, `$1${REDACTED}`) : text
  }
  return out
}
