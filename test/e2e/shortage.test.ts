import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { FaultServer } from "effect-resilient-llm/testing"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

// FIELD-CASES B14: what this machine lacks is not the provider's fault.
it.live.each(["undici", "fetch"])(
  "B14 1,000 calls at once with 256 file descriptors leave the circuit closed, over %s",
  (transport) =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make({ latencyMillis: 300 })
      const program = `ulimit -n 256; exec "$0" --import "$1" "$2" "$3" "$4"`
      const args = [process.execPath, path("../preload.ts"), path("./shortage.ts"), server.openai, transport]
      const out = yield* Effect.callback<string, Error>((resume) => {
        const child = execFile("sh", ["-c", program, ...args], (error, stdout) =>
          resume(error === null ? Effect.succeed(stdout) : Effect.fail(error)))
        return Effect.sync(() =>
          child.kill()
        )
      })
      const { circuits, outcomes } = JSON.parse(out)
      assert.deepStrictEqual(circuits, ["closed", "closed"])
      assert.isAbove(outcomes["answered by openai"], 50)
      assert.isAbove(outcomes["Network local, sent: false"], 50)
      assert.strictEqual(outcomes["answered by anthropic"], undefined)
    })
)
