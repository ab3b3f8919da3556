// An answer that has to fit: what does not is said in the ledger and asked for again, with the complaint. It stands
// between cache and idempotency: a repair is no answer to the question that the cache keeps, and who joins a call shares
// what came of it.
import * as Effect from "effect/Effect"
import type { Complaint } from "../internal/issue.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { type Answer, fromAnswer } from "../LlmResponse.ts"
import type { RetryBudget } from "../resilience/RetryBudget.ts"
import { Call } from "./call.ts"
import { overdrawn } from "./hedge.ts"
import type { Served, Stage } from "./stage.ts"

/** What is wrong with an answer. */
export interface Objection extends Complaint {
  /** For the model; `undefined` when asking again would not help. */
  readonly told: string | undefined
}

/** What an answer of a call has to be. */
export interface Check {
  readonly objection: (answer: Answer) => Objection | undefined
  /** How often it may be asked for again. */
  readonly repairs: number
}

/** May this answer be given to this call, and kept for others like it? */
export const accepts = ({ root: { check } }: Call, answer: Answer): boolean =>
  check === undefined || check.objection(answer) === undefined

interface Paid {
  readonly id: string
  readonly budget: RetryBudget | undefined
}

/**
 * The last answer goes to the caller even when it does not fit: it is the caller's to refuse. A repair is a retry to the
 * vendor, so the target whose answer it was pays for it.
 */
export const checked = (targets: ReadonlyArray<Paid>) => {
  const budgets = new Map(targets.map(({ budget, id }) => [id, budget]))
  return <E>(self: Stage<E>): Stage<E> => (call, now) => {
    const { check } = call.root
    return check === undefined
      ? self(call, now)
      : Effect.flatMap(self(call, now), (served) => repaired(call, served, check, self, budgets, 1))
  }
}

const repaired = <E>(
  call: Call,
  served: Served,
  check: Check,
  self: Stage<E>,
  budgets: ReadonlyMap<string, RetryBudget | undefined>,
  repair: number
): Effect.Effect<Served, E> => {
  const objection = check.objection(served.answer)
  if (objection === undefined) return Effect.succeed(served)
  const { books, deadline, given, request, root, scope } = call
  const { kind, path, rule, told } = objection
  const { target } = served.answer
  const about = { call: root.id, at: root.since(), target }
  const budget = budgets.get(target)
  const mayRepair = told !== undefined && repair <= check.repairs
  const now = root.now()
  const paid = mayRepair ? budget?.withdrawUnsafe(now) : undefined
  if (paid?.isOverdrawn === true) overdrawn(call, target, now)
  const isDenied = mayRepair && budget !== undefined && paid === undefined
  const isLast = !mayRepair || isDenied
  root.emit({ _tag: "AnswerRejected", ...about, path, rule, kind, ...(isLast ? undefined : { repair }) })
  if (isDenied) {
    root.emit({
      _tag: "RetryDenied",
      ...about,
      attempt: books.attempt,
      because: "budget",
      error: { tag: "InvalidOutput" }
    })
  }
  if (isLast) return Effect.succeed(served)
  const { message } = fromAnswer(served.answer, served.source, served.age, [])
  const again: LlmRequest = {
    ...request,
    prompt: [...request.prompt, message, { role: "user", content: told, options: {} }],
    cache: "never"
  }
  // Gateways that honour the key would answer the repair with what is to be repaired.
  const key = root.upstreamKey
  if (key !== undefined) root.upstreamKey = `${key}-repair`
  const own = new Call(root, again, deadline, books, scope, given)
  const { launches } = own.books
  const asked = Effect.onExit(self(own, root.now()), () =>
    Effect.sync(() => {
      if (own.books.launches === launches) paid?.refundUnsafe()
    }))
  return Effect.flatMap(asked, (served) => repaired(own, served, check, self, budgets, repair + 1))
}
