// `node test/replay/peers.ts [scenario…]`: others in the built-in scenarios, their own code as it is installed, under the same
// virtual time: the platform's timers, clocks and chance are replaced while one of them plays.
//
// In their favour, each asks vendors through a client that gives up after a minute, as ours does; a call that has no answer after
// five minutes is over, as ours. What one of them does not have (circuits, a second vendor) is not written for it.
import { RunnableLambda } from "@langchain/core/runnables"
import { APICallError, generateText } from "ai"
import { MockLanguageModelV4 } from "ai/test"
import * as Cockatiel from "cockatiel"
import { Duration, Effect, Exit } from "effect"
import { readOptions } from "../../src/internal/option.ts"
import { ProviderError } from "../../src/LlmError.ts"
import { Simulator, VirtualTime } from "../../src/testing/index.ts"
import { callsOf } from "../../src/testing/internal/simulator/arrivals.ts"
import { SimulatedVendor } from "../../src/testing/internal/simulator/vendor.ts"
import { byHand } from "../bench/peers/byHand.ts"

const SEED = 17
const ATTEMPT = 60_000
const DEADLINE = 300_000

/** What a vendor's client throws. */
class VendorError extends Error {
  readonly status: number | undefined
  readonly retryAfter: number | undefined

  constructor(status: number | undefined, retryAfter: number | undefined) {
    super(`the vendor answers ${status ?? "nothing"}`)
    this.status = status
    this.retryAfter = retryAfter
  }
}

type Ask = (prompt: string) => Promise<string>
type Peer = (vendors: ReadonlyArray<Ask>) => Ask

const aiSdk: Peer = ([first]) => (prompt) => {
  const model = new MockLanguageModelV4({
    doGenerate: async () => {
      try {
        const text = await first!(prompt)
        return {
          content: [{ type: "text", text }],
          finishReason: { unified: "stop", raw: "stop" },
          usage: {
            inputTokens: { total: 1, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
            outputTokens: { total: 1, text: undefined, reasoning: undefined }
          },
          warnings: []
        }
      } catch (error) {
        const { message, retryAfter, status } = error as VendorError
        throw new APICallError({
          message,
          url: "https://vendor.invalid",
          requestBodyValues: {},
          ...(status === undefined ? { isRetryable: true } : { statusCode: status }),
          ...(retryAfter === undefined ? undefined : { responseHeaders: { "retry-after": `${retryAfter / 1000}` } })
        })
      }
    }
  })
  return generateText({ model, prompt, maxRetries: 3 }).then(({ text }) => text)
}

const langChain: Peer = (vendors) => {
  const [first, ...others] = vendors.map((ask) =>
    RunnableLambda.from((prompt: string) => ask(prompt)).withRetry({ stopAfterAttempt: 4 })
  )
  const chain = first!.withFallbacks(others)
  return (prompt) => chain.invoke(prompt)
}

const cockatiel: Peer = (vendors) => {
  const all = Cockatiel.handleAll
  const guarded = vendors.map((ask): Ask => {
    const retry = Cockatiel.retry(all, {
      maxAttempts: 3,
      backoff: new Cockatiel.ExponentialBackoff({ initialDelay: 1000, maxDelay: 60_000 })
    })
    const breaker = Cockatiel.circuitBreaker(all, {
      halfOpenAfter: 30_000,
      breaker: new Cockatiel.ConsecutiveBreaker(5)
    })
    const timeout = Cockatiel.timeout(ATTEMPT, Cockatiel.TimeoutStrategy.Aggressive)
    const policy = Cockatiel.wrap(retry, breaker, timeout)
    return (prompt) => policy.execute(() => ask(prompt))
  })
  return guarded.reduceRight((next, ask) => (prompt) =>
    Cockatiel.fallback(all, () => next(prompt)).execute(() => ask(prompt))
  )
}

const handWritten: Peer = (vendors) => {
  const ask = byHand(vendors.map((vendor) => ({ prompt }) => vendor(String(prompt))), 1000)
  return (prompt) => ask({ prompt })
}

const peers: Readonly<Record<string, Peer>> = {
  "AI SDK, maxRetries 3": aiSdk,
  "LangChain, withRetry, withFallbacks": langChain,
  "cockatiel: retry, breaker, timeout, fallback": cockatiel,
  "by hand, as in an article": handWritten
}

// -----------------------------------------------------------------------------
// time
// -----------------------------------------------------------------------------

const turn = setImmediate

/** The platform's timers, clocks and chance while something plays. */
const inVirtualTime = async <A>(time: VirtualTime.VirtualTime, play: () => Promise<A>): Promise<A> => {
  const { clearTimeout, setTimeout } = globalThis
  const [dateNow, performanceNow, random] = [Date.now, performance.now, Math.random]
  const chance = VirtualTime.chance(SEED)
  const cancels = new WeakMap<object, () => void>()
  class Timer {
    ref(): this {
      return this
    }
    unref(): this {
      return this
    }
    hasRef(): boolean {
      return true
    }
  }
  Object.assign(globalThis, {
    setTimeout: (run: (...args: ReadonlyArray<unknown>) => void, millis = 0, ...args: ReadonlyArray<unknown>) => {
      const timer = new Timer()
      cancels.set(timer, time.at(time.now() + millis, () => run(...args)))
      return timer
    },
    clearTimeout: (timer: unknown) => {
      if (timer instanceof Timer) cancels.get(timer)?.()
    }
  })
  Date.now = () => 1_700_000_000_000 + Math.floor(time.now())
  performance.now = () => time.now()
  Math.random = () => chance.nextDoubleUnsafe()
  try {
    return await play()
  } finally {
    Object.assign(globalThis, { setTimeout, clearTimeout })
    Date.now = dateNow
    performance.now = performanceNow
    Math.random = random
  }
}

interface Row {
  readonly name: string
  readonly answered: number
  readonly p50: number
  readonly p99: number
  readonly requests: number
  readonly failures: number
}

const playPeer = (scenario: Simulator.Scenario, name: string, peer: Peer): Promise<Row> => {
  const { arrivals, vendors: settings } = readOptions(Simulator.ScenarioSchema, scenario, "")
  const { list } = callsOf(arrivals, SEED)
  const time = VirtualTime.make({ seed: SEED })
  const vendors = settings.map((vendor) => new SimulatedVendor(vendor, list))
  return inVirtualTime(time, async () => {
    const ask = peer(vendors.map(({ provider }) => asking(provider, time)))
    const took: Array<number> = []
    let answered = 0
    for (const { at, question } of list) {
      time.at(at, () => {
        let isOver = false
        const end = (isAnswered: boolean): void => {
          if (isOver) return
          isOver = true
          took.push(time.now() - at)
          if (isAnswered) answered += 1
        }
        const giveUp = time.at(at + DEADLINE, () => end(false))
        ask(`${question}`).then(() => true, () => false).then((isAnswered) => {
          giveUp()
          end(isAnswered)
        })
      })
    }
    while (took.length < list.length) {
      if (!time.step()) throw new Error(`${name} waits for something that never comes`)
      // What was promised goes on before the time does.
      await new Promise<void>((resolve) => turn(resolve))
    }
    const sorted = took.toSorted((a, b) => a - b)
    const quantile = (q: number): number => sorted[Math.max(Math.ceil(q * sorted.length), 1) - 1]!
    return {
      name,
      answered: answered / list.length,
      p50: quantile(0.5),
      p99: quantile(0.99),
      requests: vendors.reduce((sum, { requests }) => sum + requests, 0),
      failures: vendors.reduce((sum, { failures }) => sum + failures, 0)
    }
  })
}

const asking = ({ generate }: SimulatedVendor["provider"], time: VirtualTime.VirtualTime): Ask => {
  const run = Effect.runForkWith(time.context)
  return (prompt) =>
    new Promise((resolve, reject) => {
      const asked = generate({ prompt: [{ role: "user", content: prompt }] })
      run(Effect.timeoutOption(asked, ATTEMPT)).addObserver((exit) => {
        if (Exit.isSuccess(exit)) {
          return exit.value._tag === "Some" ? resolve("answer") : reject(new VendorError(undefined, undefined))
        }
        const reason = exit.cause.reasons[0]
        const error = reason?._tag === "Fail" && reason.error instanceof ProviderError ? reason.error : undefined
        const retryAfter = error?.retryAfter
        reject(new VendorError(error?.status, retryAfter === undefined ? undefined : Duration.toMillis(retryAfter)))
      })
    })
}

const ours = async (scenario: Simulator.Scenario, name: string, options: Simulator.Policy["options"]): Promise<Row> => {
  const { policies } = await Effect.runPromise(
    Simulator.run({ ...scenario, policies: [{ name, options }], seed: SEED })
  )
  const { attempts, availability, latency, vendors } = policies[0]!
  const failures = vendors.reduce((sum, { failures }) => sum + failures, 0)
  return { name, answered: availability, p50: latency.p50, p99: latency.p99, requests: attempts, failures }
}

const only = process.argv.slice(2)
for (const [name, known] of Object.entries(Simulator.scenarios)) {
  if (only.length > 0 && !only.includes(name)) continue
  // The others give whole answers only, to a caller without a name.
  const scenario = { ...known, arrivals: { ...known.arrivals, operation: "complete" as const } }
  const rows = [
    await ours(scenario, "ours, defaults", {}),
    await ours(scenario, "ours, attempt 20 s", { timeout: { attempt: "20 seconds" } })
  ]
  for (const [peer, play] of Object.entries(peers)) rows.push(await playPeer(scenario, peer, play))
  process.stdout.write(`\n### ${name}\n\n${known.about}\n\n`)
  process.stdout.write("|  | answered | p50 | p99 | requests | refused |\n| --- | --- | --- | --- | --- | --- |\n")
  for (const { answered, failures, name, p50, p99, requests } of rows) {
    const share = `${(Math.floor(answered * 10_000) / 100).toFixed(2)} %`
    process.stdout.write(
      `| ${name} | ${share} | ${(p50 / 1000).toFixed(1)} s | ${
        (p99 / 1000).toFixed(1)
      } s | ${requests} | ${failures} |\n`
    )
  }
}
