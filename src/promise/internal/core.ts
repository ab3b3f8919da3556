// A client and how its effects become promises: what the promise entry and the one for the AI SDK stand on.
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { type Client, LlmClient } from "../../LlmClient.ts"
import type { Options } from "../../LlmConfig.ts"
import type { LlmError } from "../../LlmError.ts"
import type { LlmEvent } from "../../LlmEvent.ts"
import * as LlmObserver from "../../LlmObserver.ts"
import type { LlmProvider } from "../../LlmProvider.ts"
import { ResilientLlmError, thrown } from "../ResilientLlmError.ts"
import * as Run from "./run.ts"

export interface Core {
  readonly targets: ReadonlyArray<string>
  readonly client: Client<LlmError>
  readonly run: Run.Run
  readonly close: () => Promise<void>
}

/** Runs what is done at once; throws what a promise would reject with. */
export const now = <A>(effect: Effect.Effect<A, unknown>): A => {
  const exit = Effect.runSyncExit(effect)
  if (Exit.isSuccess(exit)) return exit.value
  throw thrown(exit.cause, undefined)
}

export const refuse = (message: string): never => {
  throw new ResilientLlmError(message, { code: "LlmConfigError" })
}

export const make = (
  providers: ReadonlyArray<LlmProvider>,
  pipeline: Options,
  onEvent: ((event: LlmEvent) => void) | undefined,
  disconnect: Effect.Effect<void>
): Core => {
  const [first, ...others] = providers
  if (first === undefined) return refuse("No provider is named.")
  const scope = Scope.makeUnsafe()
  const observed = onEvent === undefined ? Layer.empty : LlmObserver.layer(() => Effect.succeed(onEvent))
  const layer = Layer.provide(LlmClient.layerDynamic<Options>([first, ...others], pipeline), observed)
  const client = now(
    Effect.flatMap(Layer.buildWithScope(layer, scope), (context) => Effect.provideContext(LlmClient, context))
  )
  let closing: Promise<void> | undefined
  return {
    targets: providers.map(({ id }) => id),
    client,
    run: Run.make(() => closing !== undefined),
    // First the calls, then what they run on: a connection that breaks under a call would be a failure of the provider.
    close: () => closing ??= Effect.runPromise(Effect.andThen(Scope.close(scope, Exit.void), disconnect))
  }
}
