// One case, so many calls: `counted.ts <case> <calls>`. What counts.ts counts the instructions of.
import { Effect, Stream } from "effect"
import { forms, inTurn } from "./prompts.ts"
import { chunksOf, client, now, on, overloaded, provider } from "./stubs.ts"

const chunks = chunksOf(20, 2)
const streaming = client([provider(() => now, () => Stream.flattenIterable(Stream.fromIterable(chunks)))], on)
const asking = client([provider(() => now)], on)

let k = 0
const flaky = client(
  [provider(() => Effect.suspend(() => k++ % 2 === 0 ? Effect.fail(overloaded) : now))],
  { ...on, retry: { baseDelay: 0 }, circuitBreaker: false, retryBudget: false }
)

export const counted: Readonly<Record<string, () => Effect.Effect<unknown, unknown>>> = {
  ...Object.fromEntries(
    Object.entries(forms).map(([name, form]) => {
      const next = inTurn<ReturnType<typeof form>>(form, name === "with a new key each")
      return [name, () => asking.complete(next())]
    })
  ),
  "one retry": () => flaky.complete("Hi"),
  "a stream of 20 parts": () => Stream.runDrain(streaming.stream("Hi"))
}

const [, , name = "", calls = "0"] = process.argv
let left = Number(calls)
const call = counted[name]
if (call !== undefined) {
  await Effect.runPromise(Effect.whileLoop({ while: () => left-- > 0, body: call, step: () => {} }))
}
