import { assert, describe, it } from "@effect/vitest"
import { Order } from "../../src/internal/order.ts"
import { drain } from "./order.support.ts"

const [sheddable, batch, standard, critical] = [0, 1, 2, 3] as const

describe("Order", () => {
  it("S5 one tenant after the other, of a tenant the first", () => {
    const order = new Order<string>(30_000)
    for (const x of ["x1", "x2", "x3"]) order.add(x, standard, "x", 0)
    order.add("y1", standard, "y", 1)
    assert.deepStrictEqual(drain(order, 2), ["x1", "y1", "x2", "x3"])
  })

  it("S6 who has waited 30 seconds rises a class, and is ahead of who came to it later", () => {
    for (const tenants of [["x", "x"], ["x", "y"]] as const) {
      const order = new Order<string>(30_000)
      order.add("batch", batch, tenants[0], 0)
      assert.strictEqual(order.nextChange(), 30_000)
      order.add("default", standard, tenants[1], 30_001)
      assert.deepStrictEqual(drain(order, 30_001), ["batch", "default"])
      order.add("batch", batch, tenants[0], 40_000)
      order.add("default", standard, tenants[1], 69_999)
      assert.deepStrictEqual(drain(order, 69_999), ["default", "batch"])
    }
  })

  it("S7 critical is next, behind whomever it came", () => {
    const order = new Order<string>(30_000)
    for (let i = 0; i < 10; i++) order.add(`batch ${i}`, batch, `tenant ${i}`, 0)
    order.add("critical", critical, "tenant 0", 1)
    assert.strictEqual(order.first(1)?.value, "critical")
  })

  it("rises one class after the other, at its own moments, however late somebody looks", () => {
    const order = new Order<string>(100)
    const low = order.add("low", sheddable, "x", 0)
    const late = order.add("late", standard, "y", 250)
    order.first(299)
    assert.deepStrictEqual([low.level, low.since, late.level], [standard, 200, standard])
    // In the highest class the first to enter it is first in turn.
    assert.strictEqual(order.first(400)?.value, "low")
    assert.deepStrictEqual([low.level, low.since, late.level, late.since], [critical, 300, critical, 350])
    assert.strictEqual(order.nextChange(), Infinity)
  })

  it("who leaves without being served costs its tenant no turn", () => {
    const order = new Order<string>(Infinity)
    const x1 = order.add("x1", standard, "x", 0)
    for (const [name, tenant] of [["y1", "y"], ["x2", "x"], ["y2", "y"]] as const) order.add(name, standard, tenant, 0)
    order.remove(x1)
    assert.deepStrictEqual(drain(order, 0), ["x2", "y1", "y2"])
  })
})
