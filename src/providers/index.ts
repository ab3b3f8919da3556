/**
 * Providers: one module per wire protocol.
 *
 * @since 0.1.0
 */
export { Anthropic } from "./Anthropic.ts"
export { Cohere } from "./Cohere.ts"
export { Gemini } from "./Gemini.ts"
export { Ollama } from "./Ollama.ts"
export { OpenAi } from "./OpenAi.ts"
export { OpenAiCompatible } from "./OpenAiCompatible.ts"
