/**
 * One typed, resilient pipeline around LLM calls.
 *
 * `LlmClient` is the front door. Providers are in `effect-resilient-llm/providers`, single patterns in
 * `effect-resilient-llm/resilience`, test tools in `effect-resilient-llm/testing`.
 *
 * @since 0.1.0
 */

/** The client: `layer`, `layerConfig`, `layerDynamic`, `make`, `target`, `Service`. */
export { LlmClient } from "./LlmClient.ts"
export type {
  Client,
  ClientOptions,
  CompleteError,
  DynamicTarget,
  LlmStream,
  Status,
  StreamError,
  Target,
  TargetInput,
  TargetOptions,
  TargetStatus
} from "./LlmClient.ts"

/** The options of the pipeline. */
export * as LlmConfig from "./LlmConfig.ts"

/** Every failure, and what it means. */
export * as LlmError from "./LlmError.ts"

/** What happened, as typed facts. */
export * as LlmEvent from "./LlmEvent.ts"

/** What an attempt must hold: guards of your own. */
export * as LlmGuard from "./LlmGuard.ts"

/** The client behind an HTTP server. */
export * as LlmHttp from "./LlmHttp.ts"

/** The client as the `LanguageModel` of `effect/ai`. */
export * as LlmLanguageModel from "./LlmLanguageModel.ts"

/** Values instead of texts. */
export * as LlmObject from "./LlmObject.ts"

/** Views of everything that clients do. */
export * as LlmObserver from "./LlmObserver.ts"

/** Several hosts of one vendor as one provider. */
export * as LlmPool from "./LlmPool.ts"

/** The contract of a provider. */
export * as LlmProvider from "./LlmProvider.ts"

/** What is asked. */
export * as LlmRequest from "./LlmRequest.ts"

/** What came back. */
export * as LlmResponse from "./LlmResponse.ts"
