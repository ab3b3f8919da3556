// Is something still held by somebody?
import { Effect } from "effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

/** By the clock on the wall, so for `it.live`. */
export const isCollected = (ref: WeakRef<object>): Effect.Effect<boolean> =>
  Effect.gen(function*() {
    for (let i = 0; i < 10 && ref.deref() !== undefined; i++) {
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 1)))
      collect()
    }
    return ref.deref() === undefined
  })
