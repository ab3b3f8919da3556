// A conversation as those protocols tell it that know two speakers, who take turns.
import type * as Prompt from "effect/ai/Prompt"
import type { LlmRequest } from "../../LlmRequest.ts"
import type { Fields } from "./json.ts"

export interface Turn {
  readonly role: "user" | "assistant"
  readonly content: Array<Fields>
}

/** Text that is white space is refused. */
export const isBlank = (text: string): boolean => text.trim() === ""

/**
 * Tool results belong into a user turn, before what the user says, and turns alternate: neighbours of one role are one
 * turn. The start of an answer, which the model goes on with, must not end in white space.
 */
export const turnsOf = (
  prompt: LlmRequest["prompt"],
  blocksOf: (message: Prompt.MessageEncoded) => ReadonlyArray<Fields>,
  isResult: (block: Fields) => boolean
): ReadonlyArray<Turn> => {
  const turns: Array<Turn> = []
  for (const message of prompt) {
    const blocks = blocksOf(message)
    if (blocks.length === 0) continue
    const role = message.role === "assistant" ? "assistant" : "user"
    const turn = turns[turns.length - 1]
    if (turn?.role !== role) turns.push({ role, content: [...blocks] })
    else for (const block of blocks) turn.content.push(block)
  }
  const last = turns[turns.length - 1]
  const start = last?.content[last.content.length - 1]
  if (last?.role === "assistant" && typeof start?.["text"] === "string") {
    last.content[last.content.length - 1] = { ...start, text: start["text"].trimEnd() }
  }
  return turns.map(({ content, role }) => ({
    role,
    content: role === "user"
      ? [...content.filter(isResult), ...content.filter((block) => !isResult(block))]
      : content
  }))
}
