// What a failure means to the person who asked: what happened, at whom, and what to do about it.
import * as Data from "effect/Data"
import * as Runtime from "effect/Runtime"
import { details as said, type InvalidOutput, type LlmError, withoutWords } from "../LlmError.ts"
import type { ErrorSummary, Ledger } from "../LlmEvent.ts"
import { duration, failure, type Paint } from "./render.ts"
import { baseUrlVariable, keyVariable } from "./vendors.ts"

/** The program did not do its job, and has already said why. */
export class Failed extends Data.TaggedError("Failed") {
  override readonly [Runtime.errorReported] = false
}

export interface Explanation {
  readonly what: string
  /** What each target did, in the order of the ledger. */
  readonly targets: ReadonlyArray<{ readonly target: string; readonly text: string }>
  readonly advice: ReadonlyArray<string>
}

interface Tried {
  readonly target: string
  attempts: number
  error: ErrorSummary | undefined
  skipped: number | undefined
}

const times = (n: number): string => n === 1 ? "asked once" : n === 2 ? "asked twice" : `asked ${n} times`

const tried = (ledger: Ledger): ReadonlyArray<Tried> => {
  const targets = new Map<string, Tried>()
  const at = (target: string): Tried => {
    let found = targets.get(target)
    if (found === undefined) targets.set(target, found = { target, attempts: 0, error: undefined, skipped: undefined })
    return found
  }
  for (const event of ledger) {
    if (event._tag === "AttemptStarted") at(event.target).attempts += 1
    else if (event._tag === "AttemptFailed") at(event.target).error = event.error
    else if (event._tag === "TargetSkipped") at(event.target).skipped = event.retryAfter ?? 0
  }
  return [...targets.values()]
}

const textOf = ({ attempts, error, skipped }: Tried): string => {
  if (error !== undefined) return `${failure(error)}; ${times(attempts)}`
  return skipped === undefined ? times(attempts) : "skipped"
}

export const explain = (error: LlmError | InvalidOutput): Explanation => {
  const targets = tried(error.ledger)
  const all = error._tag === "AllProvidersFailed"
  const several = all || targets.length > 1 || (targets[0]?.attempts ?? 0) > 1
  const advice = new Set<string>()
  const own = adviceForCall(error)
  if (own !== undefined) advice.add(own)
  else {
    for (const { error, target } of targets) {
      const one = error === undefined ? undefined : adviceFor(target, error)
      if (one !== undefined) advice.add(one)
    }
  }
  return {
    what: all ? "No provider gave an answer." : withoutWords(error.message),
    targets: several ? targets.map((one) => ({ target: one.target, text: textOf(one) })) : [],
    advice: [...advice]
  }
}

const adviceForCall = ({ _tag }: LlmError | InvalidOutput): string | undefined =>
  _tag === "DeadlineExceeded"
    ? "Give it more time with --deadline, or ask another --provider."
    : _tag === "StreamInterrupted"
    ? "The answer is not complete. Ask again."
    : _tag === "InvalidOutput"
    ? "Ask another --model, or for something simpler."
    : undefined

const adviceFor = (target: string, { reason, retryAfter, tag }: ErrorSummary): string | undefined => {
  const variable = keyVariable(target) ?? "the key"
  switch (reason ?? tag) {
    case "Authentication":
      return `Check ${variable}: ${target} does not accept this key.`
    case "Permission":
      return `Check what the key in ${variable} may do: ${target} does not permit this request.`
    case "Quota":
      return `Check plan and billing of your account at ${target}.`
    case "RateLimit":
    case "Overloaded":
    case "Server":
    case "Timeout":
    case "Conflict":
    case "ClientClosed":
    case "MalformedResponse":
      return `This passes. Ask ${target} again ${
        retryAfter === undefined ? "in a moment" : `in ${duration(retryAfter)}`
      }.`
    case "attempt":
    case "firstToken":
    case "idle":
      return `${target} is slow or stuck. Ask again, or ask another --provider.`
    case "Network":
      return `Check your connection, and ${baseUrlVariable(variable)} if you set it.`
    case "Unknown":
      return `Check proxy, network and ${
        baseUrlVariable(variable)
      }: something before ${target} may have refused. --verbose shows what it said.`
    case "NotFound":
      return `Check the name given to --model: ${target} does not know it.`
    case "ContextLength":
    case "PayloadTooLarge":
      return "Ask with a shorter prompt, or a --model that takes more."
    case "ContentPolicy":
      return "Ask in other words: the provider's policy refuses this content."
    case "InvalidRequest":
      return "Check --model: it may not support what was asked. --verbose shows what the provider said."
    default:
      return undefined
  }
}

/** An explanation as text, ready for a terminal or a pipe. */
export const render = ({ advice, targets, what }: Explanation, paint: Paint): string => {
  const width = Math.max(0, ...targets.map(({ target }) => target.length))
  return [
    `${paint("bad", "✗")} ${what}`,
    ...targets.map(({ target, text }) => `  ${target.padEnd(width)}  ${text}`),
    ...advice.map((text) => `${paint("strong", "→")} ${text}`)
  ].join("\n")
}

/** What the providers themselves said. It may echo the prompt, so it is shown only to who asks for it. */
export const details = (error: LlmError | InvalidOutput): ReadonlyArray<string> =>
  said(error).map(({ provider, text }) => `${provider} says: ${text}`)
