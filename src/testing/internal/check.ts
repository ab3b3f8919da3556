// Refuses steps that the server could not play, before a request meets them.
import { validateHeaderName, validateHeaderValue } from "node:http"
import { kindOf } from "../../internal/issue.ts"
import { LlmConfigError } from "../../LlmError.ts"
import type { Fault } from "../FaultServer.ts"

const tags: { readonly [K in Fault["_tag"]]: true } = {
  Ok: true,
  Status: true,
  Hang: true,
  ResetBeforeHeaders: true,
  ResetInBody: true,
  Stall: true,
  Truncate: true,
  ErrorEvent: true,
  MalformedJson: true,
  Duplicate: true,
  EmptyBody: true,
  KeepAlives: true,
  Raw: true
}

const millis = new Set([
  "delayMillis",
  "firstTokenMillis",
  "chunkDelayMillis",
  "keepAliveMillis",
  "everyMillis",
  "retryAfterMs"
])
const endless = new Set(["afterChunks", "forMillis"])

const sendable = (name: string, value: string): boolean => {
  try {
    validateHeaderName(name)
    validateHeaderValue(name, value)
    return true
  } catch {
    return false
  }
}

/** Throws `LlmConfigError` when a step cannot be played. */
export const checkFault = (path: string, fault: Fault): Fault => {
  const fail = (key: string, rule: string, value: unknown): never => {
    throw new LlmConfigError({ path: key === "" ? path : `${path}.${key}`, rule, kind: kindOf(value) })
  }
  if (!Object.hasOwn(tags, fault._tag)) fail("_tag", `one of ${Object.keys(tags).join(", ")}`, fault._tag)
  for (const [key, value] of Object.entries(fault)) {
    if (value === undefined) continue
    if (millis.has(key) && !(Number.isFinite(value) && value >= 0)) {
      fail(key, "a number of milliseconds that is not negative", value)
    }
    if (endless.has(key) && !(typeof value === "number" && value >= 0)) {
      fail(key, "a number that is not negative", value)
    }
    if (key === "chunkBytes" && !(Number.isInteger(value) && value > 0)) {
      fail(key, "a whole number of at least 1", value)
    }
    if (key === "status" && !(Number.isInteger(value) && value >= 200 && value <= 599)) {
      fail(key, "a whole number from 200 to 599", value)
    }
    if (key === "retryAfter" && !sendable("retry-after", String(value))) fail(key, "a valid header value", value)
    if (key === "headers") {
      for (const [name, text] of Object.entries<string>(value)) {
        if (!sendable(name, text)) fail(`headers.${name}`, "a valid header", text)
      }
    }
  }
  return fault
}
