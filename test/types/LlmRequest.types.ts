// Checked by the compiler, never run: what users write of a request is what its schema takes.
import type { LlmRequest } from "effect-resilient-llm"
import type { Settings } from "effect-resilient-llm/ai-sdk"
import { expectTypeOf } from "vitest"

type Said = Omit<LlmRequest.Input, "prompt" | "system" | "tools">
expectTypeOf<Said>().toEqualTypeOf<Omit<typeof LlmRequest.Options.Type, "tools">>()
expectTypeOf<LlmRequest.ToolDefinition>().toExtend<
  NonNullable<Exclude<LlmRequest.Input["tools"], { readonly tools: unknown }>>[number]
>()
expectTypeOf<Settings>().toEqualTypeOf<
  Omit<LlmRequest.Input, "prompt" | "tools" | "toolChoice" | "responseFormat" | "maxTokens" | "stop">
>()
