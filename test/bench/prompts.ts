// What is asked: another prompt in every call, 512 of them in turn, of 500 to 2,000 characters.
import type { LlmRequest } from "../../src/index.ts"

const COUNT = 512
const words = "the model answers what people ask about weather code music and history in short or long sentences".split(
  " "
)

const text = (i: number): string => {
  let out = `Question ${i}:`
  for (let k = i; out.length < 500 + i * 1500 / COUNT; k += 7) out += ` ${words[k % words.length]}`
  return out
}

export const prompts: ReadonlyArray<string> = Array.from({ length: COUNT }, (_, i) => text(i))

export const tool = {
  name: "lookup",
  description: "Looks up what is known about a place.",
  parameters: {
    type: "object",
    properties: {
      place: { type: "string", description: "Name of the place" },
      facts: { type: "array", items: { type: "string", enum: ["people", "weather", "history"] } },
      limit: { type: "integer", minimum: 1, maximum: 50 }
    },
    required: ["place"],
    additionalProperties: false
  }
}

/** One text as a conversation of so many messages. */
const messages = (text: string, count: number): ReadonlyArray<{ readonly role: Role; readonly content: string }> => {
  const size = Math.ceil(text.length / (count - 1))
  return Array.from({ length: count }, (_, i) => ({
    role: i === 0 ? "system" : i % 2 === 1 ? "user" : "assistant",
    content: i === 0 ? "You are kind and brief." : text.slice((i - 1) * size, i * size) || "and?"
  }))
}
type Role = "system" | "user" | "assistant"

let keys = 0

/** The forms in which it is asked. */
export const forms = {
  "a text": (i) => prompts[i]!,
  "the text in an object": (i) => ({ prompt: prompts[i]! }),
  "with temperature and maxTokens": (i) => ({ prompt: prompts[i]!, temperature: 0.5, maxTokens: 500 }),
  "with a new key each": (i) => ({ prompt: prompts[i]!, idempotencyKey: `key ${keys++}` }),
  "four messages and a tool": (i) => ({ prompt: messages(prompts[i]!, 4), tools: [tool] }),
  "twenty messages and a tool": (i) => ({ prompt: messages(prompts[i]!, 20), tools: [tool] })
} satisfies Readonly<Record<string, (i: number) => string | LlmRequest.Input>>

/** The inputs of a form, in turn. */
export const inTurn = <A>(form: (i: number) => A, isNewEach: boolean): () => A => {
  let i = 0
  if (isNewEach) return () => form(i++ % COUNT)
  const all = Array.from({ length: COUNT }, (_, i) => form(i))
  return () => all[i++ % COUNT]!
}
