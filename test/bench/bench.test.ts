// The benchmarks measure what they say: statistics, tables, and subjects that do their work. Nothing is timed here.
import { assert, describe, it } from "@effect/vitest"
import { cases, streamCases } from "./groups/inProcess.ts"
import { compare, median, type Result } from "./measure.ts"
import { aiSdk, byHand, cockatiel, langChain, opossum } from "./peers.ts"
import { asPage, asSvg, asText, figure, goals, tables } from "./render.ts"
import { ANSWER, PROMPT } from "./stubs.ts"

const result = (subject: string, value: number, name = "success", metric = "time", unit = "ns"): Result => ({
  group: "in-process",
  case: name,
  subject,
  metric,
  unit,
  median: value,
  min: value / 2,
  max: value * 2,
  runs: 3
})

it("the median of few and many, odd and even", () => {
  assert.deepStrictEqual([[3], [1, 2], [9, 1, 5], [4, 1, 3, 2]].map(median), [3, 1.5, 5, 2.5])
})

it("compare runs every subject in every round and divides by calls and parts", async () => {
  const ran: Array<string> = []
  const subject = (name: string, per?: number) => ({
    name,
    ...(per === undefined ? undefined : { per }),
    run: async (count: number) => {
      ran.push(name)
      for (let end = performance.now() + count * 0.2; performance.now() < end;);
    }
  })
  const results = await compare({ rounds: 3, warmup: 1, turn: 4 }, "g", "c", [subject("a"), subject("b", 10)])
  const [a, b] = results.filter(({ metric }) => metric === "time")
  assert.deepStrictEqual([a!.runs, b!.runs], [3, 3])
  assert.isAbove(a!.median / b!.median, 5)
  assert.include(ran.join(""), "ababab")
})

describe("rendering", () => {
  const results = [
    result("effect-resilient-llm", 4000),
    result("cockatiel", 12_000),
    result("effect-resilient-llm", 2048, "success", "allocated", "B")
  ]

  it("figures", () => {
    const figures = [[940, "ns"], [4000, "ns"], [123_456, "ns"], [20_000, "µs"], [2048, "B"], [20_480, "B"], [7, "MiB"]]
    assert.deepStrictEqual(
      figures.map(([value, unit]) => figure(value as number, unit as string)),
      ["940 ns", "4.00 µs", "123 µs", "20.0 ms", "2048 B", "20.0 KiB", "7.00 MiB"]
    )
  })

  it("tables have a ratio to the first subject; a missing figure is empty", () => {
    assert.deepStrictEqual(tables(results)[0]?.rows, [
      ["effect-resilient-llm", "4.00 µs (2.00 µs – 8.00 µs)", "2048 B", "1.00×"],
      ["cockatiel", "12.0 µs (6.00 µs – 24.0 µs)", "", "3.00×"]
    ])
    assert.include(asText(results), "in-process: success")
  })

  it("targets stand next to what was measured", () => {
    const list = goals(results)
    assert.deepInclude(list, { what: "everything on, success, synchronous provider", wanted: "≤ 5 µs", got: "4.00 µs" })
    assert.deepInclude(list, { what: "cockatiel against ours", wanted: "≥ 2×", got: "3.00×" })
    assert.isFalse(list.some(({ what }) => what.includes("LangChain")))
    assert.include(asPage(results, "A machine."), "| cockatiel against ours")
    assert.include(asSvg("Title <1>", results.slice(0, 2)), "Title &lt;1>")
  })
})

it("every subject of the in-process and stream cases does its work", async () => {
  for (const [name, subjects] of [...await cases(), ...streamCases()]) {
    for (const subject of subjects) {
      await subject.run(2).catch((error: unknown) => assert.fail(`${name}, ${subject.name}: ${String(error)}`))
    }
  }
}, 30_000)

it("peers answer what they are asked, retry and fall back", async () => {
  const asking = () => Promise.resolve(ANSWER)
  const refusing = () => Promise.reject(new Error("down"))
  const once = () => {
    let k = 0
    return () => k++ === 0 ? Promise.reject(new Error("busy")) : Promise.resolve(ANSWER)
  }
  const asks = {
    byHand: byHand([asking]),
    "byHand retries": byHand([once()]),
    "byHand falls back": byHand([refusing, asking]),
    cockatiel: cockatiel(asking, refusing),
    "cockatiel retries": cockatiel(once(), refusing),
    "cockatiel falls back": cockatiel(refusing, asking),
    opossum: opossum(asking, refusing),
    "opossum falls back": opossum(refusing, asking),
    langChain: langChain(),
    aiSdk: aiSdk()
  }
  for (const [name, ask] of Object.entries(asks)) assert.strictEqual(await ask(PROMPT), ANSWER, name)
})
