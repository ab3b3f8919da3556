// The bracket round an attempt: what is held when a guard throws goes back.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer } from "effect"
import { LlmClient, type LlmGuard } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { ask, kinds, timed, vector, vectorOptions } from "../support.ts"

/** A client with these guards in front of one provider. */
const setUp = (...guards: ReadonlyArray<LlmGuard.Guard<never>>) =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.answer("Hi."))])
    const options = { ...vectorOptions, timeout: {}, retry: false, guards } as const
    const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
    return { client: Context.get(context, LlmClient), requests: provider.requests }
  })

describe.each(kinds)("a guard that throws when it is asked, %s", (kind) => {
  it.effect.each<[string, LlmGuard.Guard<never>["acquire"]]>([
    ["at once", () => {
      throw "thrown"
    }],
    ["as its effect runs", () => Effect.die("thrown")],
    ["later", () => Effect.delay(Effect.die("thrown"), 10)]
  ])("%s: a bug of the call, and what others gave goes back", ([, acquire]) =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const first: LlmGuard.Guard<never> = {
        name: "first",
        acquire: () =>
          Effect.succeed({
            settle: ({ _tag }) => void told.push(_tag),
            release: () => void told.push("released")
          })
      }
      const { client, requests } = yield* setUp(first, { name: "throws", acquire })
      const { exit } = yield* timed(ask(kind, client))
      assert.deepStrictEqual(Exit.isFailure(exit) && Cause.squash(exit.cause), "thrown")
      assert.deepStrictEqual([told, yield* requests], [["NeverStarted", "released"], []])
    })))
})
