import { assert } from "@effect/vitest"
import type { Order } from "../../src/internal/order.ts"

/** Serves everybody, and names them. */
export const drain = <T>(order: Order<T>, now: number): ReadonlyArray<T> => {
  const served: Array<T> = []
  for (let place = order.first(now); place !== undefined; place = order.first(now)) {
    order.serve(place)
    served.push(place.value)
  }
  assert.strictEqual(order.size, 0)
  return served
}
