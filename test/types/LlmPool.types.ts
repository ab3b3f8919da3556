import type { Layer } from "effect"
import { LlmClient, LlmPool } from "effect-resilient-llm"
import type { LlmError } from "effect-resilient-llm"
import { Anthropic } from "effect-resilient-llm/providers/Anthropic"
import { OpenAi } from "effect-resilient-llm/providers/OpenAi"

class Eu extends OpenAi.Service<Eu>()("app/Eu") {}
class Us extends OpenAi.Service<Us>()("app/Us") {}
class Pool extends LlmPool.Service<Pool>()("app/Pool", [Eu, Us]) {}

// The pool needs its hosts; a client needs the pool, and not its hosts.
const layer: Layer.Layer<Pool, LlmError.LlmConfigError, Eu | Us> = Pool.layer
const client: Layer.Layer<LlmClient, LlmError.LlmConfigError, Pool | Anthropic> = LlmClient.layer([Pool, Anthropic])

// @ts-expect-error -- both hosts are needed
const half: Layer.Layer<Pool, LlmError.LlmConfigError, Eu> = Pool.layer

class Other extends LlmClient {}
// @ts-expect-error -- a client is no provider
LlmPool.Service<object>()("app/Wrong", [Other])
// @ts-expect-error -- a pool has at least one host
LlmPool.Service<object>()("app/Empty", [])

export { client, half, layer }
