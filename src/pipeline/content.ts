// Prompts and completions as attributes of spans, redacted, for those who want them recorded.
import type * as Tracer from "effect/Tracer"
import type { Redactor } from "../internal/attributes.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { type Answer, fromAnswer, type Part } from "../LlmResponse.ts"

const MAX_CHARACTERS = 8192

export const quote = (span: Tracer.Span, key: string, content: () => unknown): void => {
  let text: string | undefined
  try {
    text = JSON.stringify(content())
  } catch {
    return
  }
  span.attribute(key, text)
}

/** The redacted end of a conversation. */
class Excerpt {
  private readonly redact: Redactor
  private left = MAX_CHARACTERS

  constructor(redact: Redactor) {
    this.redact = redact
  }

  get isFull(): boolean {
    return this.left <= 0
  }

  /** Redacted before it is cut: half a key is not recognised. */
  text(value: unknown): string {
    const text = this.redact(typeof value === "string" ? value : JSON.stringify(value) ?? "")
    const kept = text.length <= this.left ? text : `…${text.slice(text.length - this.left)}`
    this.left -= text.length
    return kept
  }

  /** From the last to the first that fits. */
  lastOf<A, B>(list: ReadonlyArray<A>, of: (item: A) => B | undefined): ReadonlyArray<B> {
    const kept: Array<B> = []
    for (let i = list.length - 1; i >= 0 && !this.isFull; i--) {
      const item = of(list[i]!)
      if (item !== undefined) kept.unshift(item)
    }
    return kept
  }
}

type Message = LlmRequest["prompt"][number]
type PromptPart = Exclude<Message["content"], string>[number]

const partOf = (excerpt: Excerpt) => (part: PromptPart | Part): object | undefined => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return { type: part.type, content: excerpt.text(part.text) }
    case "tool-call":
      return { type: "tool_call", id: part.id, name: part.name, arguments: excerpt.text(part.params) }
    case "tool-result":
      return { type: "tool_call_response", id: part.id, response: excerpt.text(part.result) }
    case "file":
      return { type: "file", mime_type: part.mediaType }
    default:
      return undefined
  }
}

export const inputMessages = (prompt: LlmRequest["prompt"], redact: Redactor): unknown => {
  const excerpt = new Excerpt(redact)
  return excerpt.lastOf(prompt, ({ content, role }) => ({
    role,
    parts: typeof content === "string"
      ? [{ type: "text", content: excerpt.text(content) }]
      : excerpt.lastOf<PromptPart, object>(content, partOf(excerpt))
  }))
}

export const outputMessages = (answer: Answer, redact: Redactor): unknown => {
  const { content, finishReason } = fromAnswer(answer, "provider", 0, [])
  const excerpt = new Excerpt(redact)
  const parts = excerpt.lastOf(content, partOf(excerpt))
  return [{ role: "assistant", parts, finish_reason: finishReason.replaceAll("-", "_") }]
}
