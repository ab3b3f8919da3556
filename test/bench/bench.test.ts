// The benchmarks measure what they say: statistics, tables, and subjects that do their work. Nothing is timed here.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { counted } from "./counted.ts"
import { bundled, grown, inFolder } from "./counts.ts"
import { ownerOf } from "./groups/flame.ts"
import { groups } from "./groups/index.ts"
import { compare, inOrder, median, type Result, type Worker } from "./measure.ts"
import { aiSdk } from "./peers/aiSdk.ts"
import { byHand, type Provider } from "./peers/byHand.ts"
import { cockatiel } from "./peers/cockatiel.ts"
import { langChain } from "./peers/langChain.ts"
import { opossum } from "./peers/opossum.ts"
import { asFlame, asPage, asSvg, asText, figure, goals, tables } from "./render.ts"
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
  const workerOf = (_group: string, _name: string, name: string): Worker => ({
    name,
    time: async (count) => {
      ran.push(name)
      return count * 0.2
    },
    bytes: async (count) => count * 30,
    end: () => ran.push("end")
  })
  const subjects = { a: () => async () => {}, b: () => async () => {} }
  const results = await compare({ lives: 2, rounds: 3, warmup: 1, turn: 4 }, "g", "c", { subjects, per: 10 }, workerOf)
  assert.deepStrictEqual(results.map((one) => [one.subject, one.metric, one.median, one.runs]), [
    ["a", "time", 20_000, 6],
    ["a", "allocated", 3, 6],
    ["b", "time", 20_000, 6],
    ["b", "allocated", 3, 6]
  ])
  assert.isTrue(ran.join(" ").endsWith("a b b b b b a b a b a b end end"), ran.join(" "))
})

it("a turn lasts as long when a subject has become quicker", async () => {
  let calls = 0
  const turns: Array<number> = []
  const workerOf = (_group: string, _name: string, name: string): Worker => ({
    name,
    time: async (count) => {
      turns.push(count)
      return count * ((calls += count) < 1000 ? 1 : 0.1)
    },
    bytes: async () => 0,
    end: () => {}
  })
  const subjects = { a: () => async () => {} }
  await compare({ lives: 1, rounds: 2, warmup: 9, turn: 100 }, "g", "c", { subjects }, workerOf)
  assert.deepStrictEqual(turns.slice(-2), [1000, 1000])
})

it("each subject of a round follows each of the others about as often, and begins as often", () => {
  const names = ["a", "b", "c", "d", "e"]
  const pairs = new Map<string, number>()
  for (let round = 0; round < 500; round++) {
    const order = inOrder(names, round)
    assert.deepStrictEqual(order.toSorted(), names)
    assert.deepStrictEqual(inOrder(names, round), order)
    for (const [i, name] of order.entries()) {
      const pair = `${order[i - 1] ?? ""}${name}`
      pairs.set(pair, (pairs.get(pair) ?? 0) + 1)
    }
  }
  assert.strictEqual(pairs.size, 5 + 5 * 4)
  for (const [pair, often] of pairs) assert.closeTo(often, 100, 35, pair)
})

it("a worker runs one subject in a process of its own", async () => {
  const { per = 1, subjects } = groups["streaming"]!["5 parts in a chunk, at once"]!
  const chosen = { per, subjects: { "decoding alone": subjects["decoding alone"]! } }
  const results = await compare(
    { lives: 1, rounds: 1, warmup: 0, turn: 1 },
    "streaming",
    "5 parts in a chunk, at once",
    chosen
  )
  assert.isAbove(results[0]!.median, 0)
}, 30_000)

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
    const page = asPage(results, (group) => `A machine for ${group}.`)
    assert.include(page, "| cockatiel against ours")
    assert.include(page, "## The pipeline, in process\n\nA machine for in-process.\n\n### success")
    const apart = (subject: string, value: number) => result(subject, value, "64 at a time, apart", "cpu", "µs")
    assert.deepInclude(goals([apart("undici", 50), apart("effect-resilient-llm", 80)]), {
      what: "HTTP, 64 at a time, apart: against raw undici",
      wanted: "≤ 1.6×, aim 1.4×",
      got: "1.60×"
    })
    const cpu = (subject: string, value: number) => result(subject, value, "64 at a time", "cpu", "µs")
    const http = [cpu("undici", 50), cpu("DispatcherHttpClient alone", 60), cpu("effect-resilient-llm", 100)]
    assert.match(
      asPage(http, () => ""),
      /floor: .*50\.0 µs.*50 %[^]*Effect's: .*10\.0 µs.*10 %[^]*ours: .*40\.0 µs.*40 %/
    )
    const long = (subject: string, ratio: number) => [
      result(subject, ratio * 50, "64 at a time, in the long run", "cpu", "µs"),
      result(subject, ratio, "64 at a time, in the long run", "ratio", "×")
    ]
    assert.include(
      asPage([...long("openai", 3.3), ...long("effect-resilient-llm, every pattern off", 1.2)], () => ""),
      "openai takes 3.30× of the floor, 3.3 times less is 1.00×. Ours with every pattern off takes 1.20×."
    )
    assert.notInclude(asPage(http, () => ""), "of the floor, ")
    assert.include(asSvg("Title <1>", results.slice(0, 2)), "Title &lt;1>")
  })

  it("stacks are a chart, in which what is too narrow is left out, and have an owner", () => {
    const stacks = [
      { stack: ["undici: read", "effect: runLoop", "src/providers/internal/chat.ts: decode"], time: 30 },
      { stack: ["undici: read", "node: parse<1>"], time: 10 },
      { stack: ["undici: seldom"], time: 0.01 }
    ]
    const chart = asFlame(stacks, ownerOf)
    assert.match(chart, /x="0\.0" y="0" width="1199\.\d"[^]*undici: read, 40\.0 µs/)
    assert.match(chart, /y="16" width="899\.\d" height="15" fill="#fcd34d"><title>effect: runLoop, 30\.0 µs/)
    assert.include(chart, "parse&lt;1>")
    assert.notInclude(chart, "seldom")
    assert.deepStrictEqual(stacks[0]!.stack.map(ownerOf), ["undici and Node", "Effect", "ours: adapter"])
  })
})

it("every subject does its work", async () => {
  for (const group of Object.values(groups)) {
    for (const [name, { subjects }] of Object.entries(group)) {
      for (const [subject, make] of Object.entries(subjects)) {
        if (subject.length > "1,000".length && /^[\d,]+$/.test(subject)) continue // too large to be filled here
        const run = await make()
        await run(2).catch((error: unknown) => assert.fail(`${name}, ${subject}: ${String(error)}`))
      }
    }
  }
})

it("counted cases do their work, and 5 % more than stored is told", async () => {
  for (const call of Object.values(counted)) await Effect.runPromise(Effect.andThen(call(), call()))
  assert.deepStrictEqual(grown({ a: 1000, b: 1000 }, { a: 1050, b: 900 }), [])
  assert.deepStrictEqual(grown({ a: 1000 }, { a: 1060, b: 1 }), [
    "a takes 6.0 % more instructions than stored",
    "b is not stored"
  ])
})

it("what a call has made is gone with the next quick collection", () =>
  inFolder(async (folder) => {
    const file = await bundled(join(folder, "counted.mjs"))
    const program = join(import.meta.dirname, "garbage.ts")
    const flags = ["--expose-gc", "--min-semi-space-size=64", "--no-warnings"]
    for (const name of ["a text", "one retry", "failover", "everything off"]) {
      const share = Number(execFileSync(process.execPath, [...flags, program, file, name], { encoding: "utf8" }))
      assert.isBelow(share, 0.05, name)
    }
  }))

it("peers answer what they are asked, retry and fall back", async () => {
  const asking: Provider = () => Promise.resolve(ANSWER)
  const refusing: Provider = () => Promise.reject(new Error("down"))
  const once = (): () => Promise<string> => {
    let k = 0
    return () => k++ === 0 ? Promise.reject(new Error("busy")) : Promise.resolve(ANSWER)
  }
  const answering = () => Promise.resolve(ANSWER)
  const down = () => Promise.reject<string>(new Error("down"))
  const hand = (...providers: ReadonlyArray<Provider>) => () => byHand(providers)({ prompt: PROMPT })
  const asks = {
    byHand: hand(asking),
    "byHand retries": hand(once()),
    "byHand falls back": hand(refusing, asking),
    cockatiel: cockatiel(answering, down),
    "cockatiel retries": cockatiel(once(), down),
    "cockatiel falls back": cockatiel(down, answering),
    opossum: opossum(answering, down),
    "opossum falls back": opossum(down, answering),
    langChain: () => langChain(ANSWER)(PROMPT),
    aiSdk: () => aiSdk(ANSWER)(PROMPT)
  }
  for (const [name, ask] of Object.entries(asks)) assert.strictEqual(await ask(), ANSWER, name)
})

it("the hand-written pipeline replays, joins, refuses another content under the same key, and falls back on old answers", async () => {
  let calls = 0
  let isDown = false
  const ask = byHand([async () => {
    calls += 1
    if (isDown) throw new Error("down")
    return `answer ${calls}`
  }])
  const same = { prompt: PROMPT, idempotencyKey: "k" }
  assert.deepStrictEqual(await Promise.all([ask(same), ask(same)]), ["answer 1", "answer 1"])
  assert.strictEqual(await ask(same), "answer 1")
  assert.strictEqual(await ask({ ...same, prompt: "other" }).catch(String), "Error: conflict")
  assert.strictEqual(await ask({ prompt: PROMPT }), "answer 2")
  isDown = true
  assert.strictEqual(await ask({ prompt: PROMPT }), "answer 2")
  assert.strictEqual(await ask({ prompt: PROMPT, temperature: 1 }).catch(String), "Error: down")
})
