// What a call leaves behind: `garbage.ts <bundle> <case>` prints which share of what many calls have made is still there after
// a quick collection. It should be nothing but what is kept on purpose.
import type { loop } from "./counted.ts"

const [, , file = "", name = ""] = process.argv
const side = await import(file) as { readonly loop: typeof loop }
const collect = globalThis.gc as (options?: { readonly type: "minor" }) => void
const used = (): number => process.memoryUsage().heapUsed

const CALLS = 1000
await side.loop(name, 4 * CALLS)
collect()
const before = used()
let made = 0
for (let i = 0; i < 5; i++) {
  const start = used()
  await side.loop(name, CALLS)
  made += used() - start
  collect({ type: "minor" })
}
console.log((used() - before) / made)
