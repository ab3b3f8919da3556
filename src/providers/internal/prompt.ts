// Reads the parts of a prompt that every vendor writes in its own way.
import type * as Prompt from "effect/ai/Prompt"
import * as Base64 from "effect/encoding/Base64"
import { type Fields, fieldsOf, isFields, parse, wellFormed } from "./json.ts"

/** Content of a file part: its address, or its bytes in base64. */
export type FileData =
  | { readonly url: string; readonly base64?: undefined }
  | { readonly base64: string; readonly url?: undefined }

const dataUrl = /^data:([^;,]*)(?:;[^,]*)?;base64,/i

const encodedFile = (data: Prompt.FilePartEncoded["data"]): FileData => {
  if (typeof data === "string") {
    if (/^(?:https?|gs):\/\//i.test(data)) return { url: data }
    const prefix = dataUrl.exec(data)
    return { base64: prefix === null ? data : data.slice(prefix[0].length) }
  }
  if (data instanceof Uint8Array) return { base64: Base64.encode(data) }
  if (data instanceof URL) return encodedFile(data.href)
  return data._tag === "URL" ? encodedFile(data.href) : { base64: data.base64 }
}

export interface File {
  readonly mediaType: string
  readonly name: string | undefined
  readonly data: FileData
}

export const fileOf = (part: Prompt.FilePartEncoded): File => ({
  // `image/*` is what callers write who do not know better; the vendors look at the bytes.
  mediaType: part.mediaType === "image/*" ? "image/jpeg" : part.mediaType.toLowerCase(),
  name: part.fileName,
  data: encodedFile(part.data)
})

/** The file as one address. */
export const urlOf = ({ data, mediaType }: File): string => data.url ?? `data:${mediaType};base64,${data.base64}`

/** What a model is told about a tool's result: texts as they are, all else as JSON. */
export const resultText = (part: Prompt.ToolResultPartEncoded): string => {
  const texts = part.modelOutput?.flatMap((output) => output.type === "text" ? [output.text] : []) ?? []
  if (texts.length > 0) return texts.join("\n")
  return typeof part.result === "string" ? part.result : wellFormed(JSON.stringify(part.result) ?? "null")
}

/** Tool arguments as the JSON text that most vendors want back. */
export const argumentsText = (params: unknown): string =>
  wellFormed(typeof params === "string" ? params : JSON.stringify(params ?? {}))

/** Tool arguments as an object, for vendors that want one. A text that is none goes along under a name of its own. */
export const argumentsObject = (params: unknown): Fields => {
  const parsed = typeof params === "string" ? parse(params) : params
  return isFields(parsed) ? parsed : typeof params === "string" && params.trim() !== "" ? { arguments: params } : {}
}

/** Options of one part or message for this vendor. */
export const vendorOptions = (
  part: { readonly options?: Prompt.ProviderOptions | undefined },
  vendor: string
): Fields => fieldsOf(part.options?.[vendor])

/** The parts of a message whose content may be a plain text. */
export const partsOf = <P>(content: string | ReadonlyArray<P>): ReadonlyArray<P | Prompt.TextPartEncoded> =>
  typeof content === "string" ? [{ type: "text", text: content }] : content

/** Calls and results of tools that ran at the provider belong to its own conversation, not to ours. */
export const isOurs = (part: { readonly providerExecuted?: boolean | undefined }): boolean =>
  part.providerExecuted !== true
