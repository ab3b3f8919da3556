// A hundred thousand in line, and the order against everybody in one list.
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Order, type Place } from "../../src/internal/order.ts"
import { drain } from "./order.support.ts"

const standard = 2

describe("Order", () => {
  it("nobody starves: 100 000 calls, one tenant with 100 times the load of three others", () => {
    const order = new Order<number>(30_000)
    const places = 100_000
    const flood = Math.floor(places * 100 / 103)
    const begun = process.cpuUsage().user
    for (let i = 0; i < flood; i++) order.add(i, standard, "flood", i / 1000)
    for (let i = 0; i < places - flood; i++) order.add(i, standard, `quiet ${i % 3}`, 97 + i / 1000)
    let quiet = 0
    const served = new Map<string | undefined, number>()
    for (let n = 1;; n++) {
      const place = order.first(100)
      if (place === undefined) break
      order.serve(place)
      served.set(place.tenant.name, (served.get(place.tenant.name) ?? 0) + 1)
      if (place.tenant.name === "flood") continue
      quiet = n
      // Each of the four gets every fourth grant while it waits.
      assert.strictEqual(served.get(place.tenant.name), Math.ceil(n / 4), `${place.tenant.name}, ${n}`)
    }
    const millis = (process.cpuUsage().user - begun) / 1000
    assert.isAtMost(quiet, 4 * Math.ceil((places - flood) / 3))
    assert.isBelow(millis, 2000, "milliseconds of CPU for 100 000 waiters")
  })
})

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Add = Schema.TaggedStruct("add", { level: int(0, 3), tenant: int(0, 3) })
const Op = Schema.Union([
  Add,
  Add,
  Add,
  Schema.TaggedStruct("serve", {}),
  Schema.TaggedStruct("remove", { which: int(0, 30) }),
  Schema.TaggedStruct("advance", { millis: int(1, 60) })
])

const AGEING = 50

interface Waits {
  readonly name: number
  readonly tenant: number
  readonly origin: number
  level: number
  since: number
}

/** Everybody in one list in the order of arrival, and per class the tenants in the order of their turns. */
class Model {
  waits: Array<Waits> = []
  turns: ReadonlyArray<Array<number>> = [[], [], [], []]
  now = 0

  private isIn(level: number, tenant: number): boolean {
    return this.waits.some((one) => one.level === level && one.tenant === tenant)
  }

  private tidy(): void {
    this.turns = this.turns.map((turns, level) => turns.filter((tenant) => this.isIn(level, tenant)))
  }

  private enter(one: Waits): void {
    if (!this.turns[one.level]!.includes(one.tenant)) this.turns[one.level]!.push(one.tenant)
  }

  add(name: number, level: number, tenant: number): void {
    const one = { name, tenant, origin: level, level, since: this.now }
    this.waits.push(one)
    this.enter(one)
  }

  advance(millis: number): void {
    for (let i = 0; i < millis; i++) {
      this.now += 1
      for (const level of [2, 1, 0]) {
        const ripe = this.waits.filter((one) => one.level === level && one.since + AGEING === this.now)
        for (const one of ripe) {
          one.level += 1
          one.since = this.now
          this.tidy()
          this.enter(one)
        }
      }
    }
  }

  first(): Waits | undefined {
    for (const level of [3, 2, 1, 0]) {
      const [tenant] = this.turns[level]!
      if (tenant !== undefined) return this.waits.find((one) => one.level === level && one.tenant === tenant)
    }
    return undefined
  }

  remove(one: Waits, isServed: boolean): void {
    this.waits = this.waits.filter((other) => other !== one)
    const turns = this.turns[one.level]!
    if (isServed) turns.push(...turns.splice(turns.indexOf(one.tenant), 1))
    this.tidy()
  }
}

describe("Order against its model", () => {
  it.prop(
    "who is next is whom the model names",
    { ops: Schema.Array(Op).check(Schema.isMinLength(20), Schema.isMaxLength(120)) },
    ({ ops }) => {
      const order = new Order<number>(AGEING)
      const model = new Model()
      const places = new Map<number, Place<number>>()
      for (const [name, op] of ops.entries()) {
        switch (op._tag) {
          case "add":
            model.add(name, op.level, op.tenant)
            places.set(name, order.add(name, op.level, `${op.tenant}`, model.now))
            break
          case "serve": {
            const next = model.first()
            const place = order.first(model.now)
            assert.strictEqual(place?.value, next?.name)
            if (next === undefined || place === undefined) break
            model.remove(next, true)
            order.serve(place)
            break
          }
          case "remove": {
            const one = model.waits[op.which % Math.max(model.waits.length, 1)]
            if (one === undefined) break
            order.first(model.now)
            model.remove(one, false)
            order.remove(places.get(one.name)!)
            break
          }
          case "advance":
            model.advance(op.millis)
        }
        assert.strictEqual(order.first(model.now)?.value, model.first()?.name)
        assert.strictEqual(order.size, model.waits.length)
        const names = new Set([...order].map(({ value }) => value))
        assert.deepStrictEqual(names, new Set(model.waits.map(({ name }) => name)))
        const rising = model.waits.filter(({ level }) => level < 3).map(({ since }) => since + AGEING)
        assert.strictEqual(order.nextChange(), Math.min(...rising))
      }
      for (const level of [0, 3]) {
        for (const tenant of [0, 9]) {
          // The least urgent and latest of a tenant that has more, where it is not more urgent.
          const place = order.last(level, `${tenant}`)
          const sizes = Array.from({ length: 4 }, (_, t) => model.waits.filter((one) => one.tenant === t).length)
          const own = sizes[tenant] ?? 0
          const theirs = (t: number) => model.waits.filter((one) => one.tenant === t && one.level <= level)
          const largest = Math.max(0, ...sizes.filter((size, t) => size > own + 1 && theirs(t).length > 0))
          if (largest === 0) assert.isUndefined(place)
          else {
            const of = Number(place!.tenant.name)
            const lowest = Math.min(...theirs(of).map((one) => one.level))
            assert.strictEqual(sizes[of], largest)
            assert.strictEqual(place!.value, theirs(of).findLast((one) => one.level === lowest)!.name)
          }
        }
      }
      const sequence: Array<number> = []
      order.walk(model.now, ({ value }) => void sequence.push(value))
      assert.strictEqual(
        order.isSimple,
        new Set(model.waits.map(({ origin, tenant }) => `${tenant} ${origin}`)).size < 2
      )
      assert.deepStrictEqual(sequence, drain(order, model.now), "the sequence is that in which they are served")
    },
    { arbitrary: { runs: 400, seed: 11 } }
  )
})
