// What a call costs in process, in the forms in which people ask. All subjects of a case take turns in one process; the
// ratios are of each round to the hand-written promises in the same round.
import { Effect } from "effect"
import { createHash } from "node:crypto"
import type { LlmRequest } from "../../../src/index.ts"
import type { Case, Group, Run } from "../measure.ts"
import type { Request } from "../peers/byHand.ts"
import { forms, inTurn } from "../prompts.ts"
import { ANSWER, type Answer, client, loop, now, on, provider, soon } from "../stubs.ts"

const hand = "hand-written promises"

type Next = () => string | LlmRequest.Input

const asyncLoop = (ask: () => Promise<unknown>): Run => async (count) => {
  for (let i = 0; i < count; i++) await ask()
}

const fibre = (next: Next, answer: Answer) => (): Run => {
  const one = client([provider(() => answer)], on)
  return loop(Effect.suspend(() => one.complete(next())))
}

const promises = (next: Next, answer: Answer) => (): Run => {
  const one = client([provider(() => answer)], on)
  return asyncLoop(() => Effect.runPromise(one.complete(next())))
}

/** They keep their answers too. */
const byHand = (next: Next) => async (): Promise<Run> => {
  const answering = () => Promise.resolve(ANSWER)
  const ask = (await import("../peers/byHand.ts")).byHand([answering, answering])
  return asyncLoop(() => {
    const input = next()
    return ask((typeof input === "string" ? { prompt: input } : input) as Request)
  })
}

const cockatiel = async (): Promise<Run> => {
  const answering = () => Promise.resolve(ANSWER)
  return asyncLoop((await import("../peers/cockatiel.ts")).cockatiel(answering, answering))
}

/** What naming a prompt by its content costs at least. */
const named = (next: Next) => (): Run => async (count) => {
  for (let i = 0; i < count; i++) createHash("sha256").update(JSON.stringify(next())).digest("hex")
}

const caseOf = (name: keyof typeof forms, answer: Answer): Case => {
  const isAsync = answer === soon
  const next = () => inTurn<string | LlmRequest.Input>(forms[name], name === "with a new key each")
  return {
    floor: hand,
    subjects: {
      [hand]: byHand(next()),
      "effect-resilient-llm": fibre(next(), answer),
      "effect-resilient-llm, as promises": promises(next(), answer),
      ...name === "a text" && !isAsync ? { cockatiel } : {},
      ...name.startsWith("twenty") ? { "JSON.stringify and SHA-256": named(next()) } : {}
    }
  }
}

export const requests: Group = {
  ...Object.fromEntries(
    (Object.keys(forms) as Array<keyof typeof forms>).map((name) => [name, caseOf(name, now)])
  ),
  "a text, asynchronous provider": caseOf("a text", soon)
}
