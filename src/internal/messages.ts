// Messages as almost all prompts have them, checked and put into their canonical form in one step. What is unusual, or
// wrong, is left to the schemas of `effect/ai`.
import type * as Prompt from "effect/ai/Prompt"
import { NotJson, plain } from "./json.ts"
import { isPlain } from "./reading.ts"

type Fields = Readonly<Record<string, unknown>>

export const noOptions = Object.freeze({})

/** The canonical form, or `undefined` where the schemas have to decide. */
export const readMessages = (messages: ReadonlyArray<unknown>): ReadonlyArray<Prompt.MessageEncoded> | undefined => {
  try {
    return read(messages)
  } catch (error) {
    // The other way knows where in the prompt it is.
    if (error instanceof NotJson) return undefined
    throw error
  }
}

const read = (messages: ReadonlyArray<unknown>): ReadonlyArray<Prompt.MessageEncoded> | undefined => {
  const out: Array<unknown> = []
  for (const message of messages) {
    if (!isPlain(message) || !isBare(message["options"])) return undefined
    const { role } = message
    const content = readContent(role, message["content"])
    if (content === undefined) return undefined
    out.push({ content, options: noOptions, role })
  }
  return out as ReadonlyArray<Prompt.MessageEncoded>
}

/** There are no options. */
export const isBare = (options: unknown): boolean => {
  if (options === undefined || options === noOptions) return true
  if (!isPlain(options)) return false
  for (const _ in options) return false
  return true
}

const readContent = (role: unknown, content: unknown): string | ReadonlyArray<unknown> | undefined => {
  if (role !== "user" && role !== "assistant" && role !== "tool" && role !== "system") return undefined
  if (typeof content === "string") return role === "tool" ? undefined : content
  if (role === "system" || !Array.isArray(content)) return undefined
  const out: Array<unknown> = []
  for (const part of content) {
    const known = isPlain(part) && isBare(part["options"]) ? readPart(role, part) : undefined
    if (known === undefined) return undefined
    out.push(known)
  }
  // One text stands for itself.
  const only = out.length === 1 ? out[0] as Fields : undefined
  return only?.["type"] === "text" ? only["text"] as string : out
}

const readPart = (role: unknown, part: Fields): Fields | undefined => {
  const { type } = part
  switch (type) {
    case "text":
    case "reasoning": {
      const { text } = part
      return typeof text === "string" && role !== "tool" && (type === "text" || role === "assistant")
        ? { options: noOptions, text, type }
        : undefined
    }
    case "tool-call": {
      const { id, name, params, providerExecuted = false } = part
      if (role !== "assistant" || !areNames(id, name) || typeof providerExecuted !== "boolean") return undefined
      if (!Object.hasOwn(part, "params")) return undefined
      return { id, name, options: noOptions, params: plain(params, true) ?? null, providerExecuted, type }
    }
    case "tool-result": {
      const { id, isFailure, modelOutput, name, providerExecuted = false, result } = part
      if (role !== "assistant" && role !== "tool" || !areNames(id, name) || typeof isFailure !== "boolean") {
        return undefined
      }
      if (modelOutput !== undefined || typeof providerExecuted !== "boolean") return undefined
      if (!Object.hasOwn(part, "result")) return undefined
      return { id, isFailure, name, options: noOptions, providerExecuted, result: plain(result, true) ?? null, type }
    }
    default:
      return undefined
  }
}

const areNames = (id: unknown, name: unknown): boolean => typeof id === "string" && typeof name === "string"
