// Names of tool calls as one vendor takes them. A conversation may have moved: each vendor names calls in its own way,
// and refuses names that it would not give.
import type * as Prompt from "effect/ai/Prompt"
import { sha256 } from "../../internal/sha256.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { isOurs, partsOf } from "./prompt.ts"

/** Which names a protocol takes, and how long a new one is. */
export interface IdRule {
  readonly takes: RegExp
  readonly length: number
}

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/** OpenAI's limit for chat completions; all that many servers check, and others pass on. */
export const openAiIds: IdRule = { takes: /^[\w-]{1,40}$/, length: 24 }
export const responsesIds: IdRule = { takes: /^[\w-]{1,64}$/, length: 24 }
export const anthropicIds: IdRule = { takes: /^[\w-]{1,64}$/, length: 24 }
export const mistralIds: IdRule = { takes: /^[a-zA-Z\d]{9}$/, length: 9 }
/** Servers that take any name, and whose models are shown it. */
export const anyIds: IdRule = { takes: /^[^]+$/, length: 24 }

/** A new name in letters and digits, the same for the same name and number. */
const derived = (id: string, n: number, length: number): string => {
  const digest = sha256(`${n}:${id}`)
  let name = ""
  for (let i = 0; i < length; i++) name += letters[Number.parseInt(digest.slice(2 * i, 2 * i + 2), 16) % letters.length]
  return name
}

/**
 * Results stand right behind the calls that they answer, in the calls' order, as every vendor wants them: what a user said
 * in between comes after. A conversation in order stays the one it is.
 */
const inOrder = (prompt: LlmRequest["prompt"]): LlmRequest["prompt"] => {
  const messages: Array<Prompt.MessageEncoded> = []
  let moved = false
  for (let i = 0; i < prompt.length;) {
    // A turn of the assistant, and what comes before its next one.
    const from = i
    const calls: Array<string> = []
    for (; prompt[i]?.role === "assistant"; i++) {
      for (
        const part of partsOf<Prompt.AssistantMessagePartEncoded>((prompt[i] as Prompt.AssistantMessageEncoded).content)
      ) {
        if (part.type === "tool-call" && isOurs(part)) calls.push(part.id)
      }
      messages.push(prompt[i]!)
    }
    const rest: Array<Prompt.MessageEncoded> = []
    for (; i < prompt.length && prompt[i]!.role !== "assistant"; i++) rest.push(prompt[i]!)
    const results = rest.flatMap((message) => message.role === "tool" ? message.content : [])
    const told = results.flatMap((part) => part.type === "tool-result" ? [part.id] : [])
    const isFirst = rest.findIndex(({ role }) => role !== "tool")
    const isLate = isFirst !== -1 && rest.slice(isFirst).some(({ role }) => role === "tool")
    const isMixed = told.some((id, n) => calls[n] !== id)
    if (i === from || calls.length === 0 || (!isLate && !isMixed)) {
      for (const message of rest) messages.push(message)
      continue
    }
    moved = true
    const waiting = [...results]
    const ordered: Array<Prompt.ToolMessagePartEncoded> = []
    for (const id of calls) {
      const at = waiting.findIndex((part) => part.type === "tool-result" && part.id === id)
      if (at !== -1) ordered.push(...waiting.splice(at, 1))
    }
    const options = rest.findLast(({ role }) => role === "tool")?.options
    messages.push({
      role: "tool",
      content: [...ordered, ...waiting],
      ...(options === undefined ? undefined : { options })
    })
    for (const message of rest) if (message.role !== "tool") messages.push(message)
  }
  return moved ? messages : prompt
}

type Part = Exclude<Prompt.MessageEncoded["content"], string>[number]

const mayHoldCalls = ({ content, role }: Prompt.MessageEncoded): boolean =>
  role === "tool" || (role === "assistant" && typeof content !== "string")

/**
 * The prompt with results behind their calls, and with names of calls that `rule` takes, each for one call only and the
 * same in its result. What a name becomes depends on nothing that comes after it, so that a growing conversation keeps
 * its names.
 */
export const withIds = (told: LlmRequest["prompt"], rule: IdRule): LlmRequest["prompt"] => {
  if (!told.some(mayHoldCalls)) return told
  const prompt = inOrder(told)
  const used = new Set<string>()
  const counts = new Map<string, number>()
  /** Names of the calls of one id: those without a result yet, and the last. */
  const open = new Map<string, Array<string>>()
  const last = new Map<string, string>()

  const nameOf = (id: string): string => {
    let n = counts.get(id) ?? 0
    let name = id
    while (used.has(name) || !rule.takes.test(name)) name = derived(id, n++, rule.length)
    counts.set(id, n)
    used.add(name)
    last.set(id, name)
    return name
  }

  const renamed = <P extends Part>(part: P): P => {
    if (part.type === "tool-call" && isOurs(part)) {
      const name = nameOf(part.id)
      const waiting = open.get(part.id)
      if (waiting === undefined) open.set(part.id, [name])
      else waiting.push(name)
      return name === part.id ? part : { ...part, id: name }
    }
    if (part.type !== "tool-result" || !isOurs(part)) return part
    const name = open.get(part.id)?.shift() ?? last.get(part.id) ?? nameOf(part.id)
    return name === part.id ? part : { ...part, id: name }
  }

  const parts = <P extends Part>(content: ReadonlyArray<P>): ReadonlyArray<P> => {
    const all = content.map(renamed)
    return all.every((part, i) => part === content[i]) ? content : all
  }

  const messageOf = (message: Prompt.MessageEncoded): Prompt.MessageEncoded => {
    if (message.role === "assistant" && typeof message.content !== "string") {
      const content = parts(message.content)
      return content === message.content ? message : { ...message, content }
    }
    if (message.role !== "tool") return message
    const content = parts(message.content)
    return content === message.content ? message : { ...message, content }
  }
  return prompt.map(messageOf)
}
