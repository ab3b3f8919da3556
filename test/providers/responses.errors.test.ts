import { assert, describe, it } from "@effect/vitest"
import type { Reason } from "effect-resilient-llm/LlmError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { base, completed, created, headers, make, message, problem, sse, text } from "./responses.samples.ts"
import { digest, play } from "./support.ts"

describe("responses: errors inside a success", () => {
  const codes: ReadonlyArray<[object, Reason["_tag"]]> = [
    [{ type: "insufficient_quota", code: "insufficient_quota", message: "You exceeded your current quota" }, "Quota"],
    [{ type: "service_unavailable_error", code: "server_is_overloaded", message: "Our servers" }, "Overloaded"],
    [{ code: "rate_limit_exceeded", message: "Rate limit reached. Please try again in 1.5s." }, "RateLimit"],
    [{ code: "server_error", message: "An error occurred" }, "Server"],
    [{ code: null, message: "An error occurred" }, "Server"],
    [{ code: "invalid_prompt", message: "flagged" }, "ContentPolicy"],
    [{ code: "bio_policy", message: "flagged" }, "ContentPolicy"],
    [{ code: "image_content_policy_violation", message: "flagged" }, "ContentPolicy"],
    [{ code: "context_length_exceeded", message: "too long" }, "ContextLength"],
    [{ code: "vector_store_timeout", message: "late" }, "Timeout"],
    [{ code: "data_residency_mismatch", message: "region" }, "Permission"],
    [{ code: "invalid_base64_image", message: "no image" }, "InvalidRequest"],
    [{ code: "failed_to_download_image", message: "no image" }, "InvalidRequest"]
  ]

  it.effect("have the class of the error, in each of the forms", () =>
    Effect.gen(function*() {
      for (const [error, tag] of codes) {
        const failed = {
          type: "response.failed",
          response: { ...base, status: "failed", error, output: [], usage: null }
        }
        const nested = { type: "error", sequence_number: 3, error: { ...error, param: null } }
        const flat = { ...error, type: "error", sequence_number: 3, param: null }
        const forms: ReadonlyArray<ReadonlyArray<object>> = [[failed], [nested, failed], [flat], [nested]]
        for (const form of forms) {
          for (const named of [true, false]) {
            const early = yield* play(make, { headers, body: sse([created, ...form], named) }, true)
            assert.strictEqual(problem(early), tag, JSON.stringify(form))
            assert.strictEqual(early.error?.requestId, "req_1")
            assert.isUndefined(early.error?.status)
            const late = yield* play(make, { headers, body: sse([created, text("Hi"), ...form], named) }, true)
            assert.strictEqual(problem(late), tag)
            assert.strictEqual(digest(late).text, "Hi")
            assert.isUndefined(digest(late).finish)
          }
        }
        const whole = yield* play(
          make,
          { body: JSON.stringify({ ...base, status: "failed", error, output: [] }) },
          false
        )
        assert.strictEqual(problem(whole), tag)
      }
    }))

  it.effect("keep the delay of their text, and none of the text", () =>
    Effect.gen(function*() {
      const error = { code: "rate_limit_exceeded", message: "Limit of org SECRET. Please try again in 1.5s." }
      const { error: got } = yield* play(make, { headers, body: sse([created, { type: "error", error }]) }, true)
      assert.strictEqual(Duration.toMillis(got!.retryAfter!), 1500)
      assert.strictEqual(got!.code, "rate_limit_exceeded")
      assert.notInclude(`${got!.message}${JSON.stringify(got)}`, "SECRET")
    }))

  it.effect("answers that are none", () =>
    Effect.gen(function*() {
      const whole = (body: unknown) => Effect.map(play(make, { body: JSON.stringify(body) }, false), problem)
      assert.strictEqual(yield* whole({ ...base, status: "cancelled", output: [message] }), "Server")
      assert.strictEqual(yield* whole({ ...base, status: "failed", output: [] }), "Server")
      assert.strictEqual(yield* whole({ error: { code: "rate_limit_exceeded" } }), "RateLimit")
      assert.strictEqual(yield* whole({ ...base, status: "queued", output: [] }), "the body holds no answer")
      assert.include(yield* whole({ ...base, status: "completed" }), "shape")
      assert.include(yield* whole([]), "shape")
      const failed = yield* play(make, { headers, body: sse([created, completed({ status: "failed" })]) }, true)
      assert.strictEqual(problem(failed), "Server")
      const gateway = yield* play(
        make,
        { headers, body: "data: {\"error\":{\"code\":429,\"message\":\"…\"}}\n\n" },
        true
      )
      assert.strictEqual(problem(gateway), "RateLimit")
    }))
})
