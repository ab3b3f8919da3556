import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { FaultServer } from "effect-resilient-llm/testing"
import { run, withoutColours } from "./support.ts"

const keys = (server: FaultServer.FaultServer) => ({
  OPENAI_API_KEY: "key-1",
  OPENAI_BASE_URL: server.openai,
  ANTHROPIC_API_KEY: "key-2",
  ANTHROPIC_BASE_URL: server.anthropic,
  COHERE_API_KEY: "key-3",
  COHERE_BASE_URL: server.cohere
})

const only = (server: FaultServer.FaultServer) => ({ OPENAI_API_KEY: "key-1", OPENAI_BASE_URL: server.openai })

const test = (name: string, body: (server: FaultServer.FaultServer) => Effect.Effect<void, unknown>) =>
  it.live(name, () => Effect.scoped(Effect.flatMap(FaultServer.make({ reply: () => "Forty-two." }), body)))

const failedQuietly = (exit: Exit.Exit<unknown, unknown>): void => {
  assert.isTrue(Exit.isFailure(exit))
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  assert.propertyVal(error, "_tag", "Failed")
  assert.propertyVal(error, "~effect/Runtime/errorReported", false)
}

const NOTICE = "No OPENAI_API_KEY, ANTHROPIC_API_KEY or COHERE_API_KEY: the answer is simulated\n"

describe("ask", () => {
  test("prints the answer, and nothing else, into a pipe", (server) =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run(["ask", "What is the answer?"], { env: keys(server) })
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(out, "Forty-two.\n")
      assert.strictEqual(err, "")
      const [request] = yield* server.requests
      assert.strictEqual(request?.dialect, "openai")
      assert.deepInclude(request?.body, { messages: [{ role: "user", content: "What is the answer?" }] })
    }))

  test("sends system message and model, to the maker of the model first", (server) =>
    Effect.gen(function*() {
      yield* run(["ask", "Hi", "--system", "Be brief.", "-m", "claude-x"], { env: keys(server) })
      const [request] = yield* server.requests
      assert.strictEqual(request?.dialect, "anthropic")
      assert.deepInclude(request?.body, { model: "claude-x" })
      assert.include(JSON.stringify(request?.body), "Be brief.")
    }))

  test("asks the named providers in the named order", (server) =>
    Effect.gen(function*() {
      yield* server.play(FaultServer.error("Authentication"), FaultServer.error("Authentication"))
      const { exit } = yield* run(["ask", "Hi", "-p", "cohere", "-p", "anthropic", "-p", "cohere"], {
        env: keys(server)
      })
      failedQuietly(exit)
      assert.deepStrictEqual((yield* server.requests).map(({ dialect }) => dialect), ["cohere", "anthropic"])
    }))

  test("fails over, and --verbose tells how", (server) =>
    Effect.gen(function*() {
      yield* server.play(FaultServer.error("Quota"))
      const { err, exit, out } = yield* run(["ask", "Hi", "--verbose"], { env: keys(server) })
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(out, "Forty-two.\n")
      const told = err.trim().split("\n").map((line) => line.trim().split(/ {2,}/).slice(1, 4))
      assert.deepInclude(told, ["openai", "attempt 1", "✗ HTTP 429, quota used up"])
      assert.deepInclude(told, ["anthropic", "failover", "from openai"])
      assert.match(err, /anthropic {2}attempt 2 {2}✓ answered/)
    }))

  test("--stream prints the parts", (server) =>
    Effect.gen(function*() {
      const { exit, out } = yield* run(["ask", "Hi", "--stream"], { env: keys(server) })
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(out, "Forty-two.\n")
      assert.deepInclude((yield* server.requests)[0]?.body, { stream: true })
    }))

  test("--stream keeps what came before a break, and fails", (server) =>
    Effect.gen(function*() {
      yield* server.play(FaultServer.truncate({ text: "One two three.", afterChunks: 2 }))
      const { err, exit, out } = yield* run(["ask", "Hi", "--stream"], { env: keys(server) })
      failedQuietly(exit)
      assert.strictEqual(out, "One two\n")
      assert.include(err, "✗ The stream from openai broke (truncated) after 2 content parts.")
      assert.include(err, "→ The answer is not complete. Ask again.")
    }))

  for (const mode of [[], ["--stream"]]) {
    test(`--json ${mode.join("")} is one document`, (server) =>
      Effect.gen(function*() {
        const { err, exit, out } = yield* run(["ask", "Hi", "--json", ...mode], { env: keys(server) })
        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(err, "")
        const document = JSON.parse(out)
        assert.deepInclude(document, {
          text: "Forty-two.",
          source: "provider",
          provider: "openai",
          target: "openai",
          model: "gpt-4.1-mini",
          finishReason: "stop",
          simulated: false
        })
        assert.isAbove(document.usage.outputTokens.total, 0)
        assert.strictEqual(document.ledger.at(-1)._tag, "CallEnded")
        assert.deepInclude((yield* server.requests)[0]?.body, mode.length === 0 ? {} : { stream: true })
      }))
  }

  test("--json on a terminal: what steers it or hides is escaped, and the document says it all the same", (server) =>
    Effect.gen(function*() {
      const text = "a\u009b31mb\u202ec\u200bd\u2066e\ufefff"
      yield* server.always(FaultServer.ok({ text }))
      const { out } = yield* run(["ask", "Hi", "--json"], { env: keys(server), terminal: true })
      assert.notMatch(out, /[\u0080-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/)
      assert.strictEqual(JSON.parse(out).text, text)
    }))

  test("--json tells a failure as one document, too", (server) =>
    Effect.gen(function*() {
      yield* server.always(FaultServer.error("Authentication"))
      const { err, exit, out } = yield* run(["ask", "Hi", "--json"], { env: only(server) })
      failedQuietly(exit)
      assert.strictEqual(err, "")
      const { error } = JSON.parse(out)
      assert.deepInclude(error, { tag: "ProviderError", reason: "Authentication", status: 401 })
      assert.deepStrictEqual(error.advice, ["Check OPENAI_API_KEY: openai does not accept this key."])
      assert.strictEqual(error.ledger.at(-1)._tag, "CallEnded")
    }))

  test("a failure is one paragraph, without a trace; the provider's words only with --verbose", (server) =>
    Effect.gen(function*() {
      yield* server.always(FaultServer.status(404, { body: { error: { message: "No such model: gpt-0\u001b[2J" } } }))
      const short = yield* run(["ask", "Hi", "-m", "gpt-0"], { env: only(server) })
      failedQuietly(short.exit)
      assert.strictEqual(short.out, "")
      assert.strictEqual(
        short.err,
        [
          "✗ openai does not know the model or endpoint (HTTP 404).",
          "→ Check the name given to --model: openai does not know it.",
          ""
        ].join("\n")
      )
      const long = yield* run(["ask", "Hi", "-m", "gpt-0", "--verbose"], { env: only(server) })
      assert.include(long.err, "openai says: No such model: gpt-0[2J\n")
      assert.include(long.err, "✗ HTTP 404, unknown model")
    }))

  test("--deadline ends a hang", (server) =>
    Effect.gen(function*() {
      yield* server.always(FaultServer.hang())
      const { err, exit } = yield* run(["ask", "Hi", "--deadline", "200ms"], { env: keys(server) })
      failedQuietly(exit)
      assert.include(err, "✗ The call exceeded its deadline of 200ms.")
      assert.include(err, "--deadline")
    }))

  test("an interruption ends it at once and closes the connection", (server) =>
    Effect.gen(function*() {
      yield* server.always(FaultServer.hang())
      const left = yield* Effect.timeoutOption(run(["ask", "Hi"], { env: keys(server) }), "300 millis")
      assert.strictEqual(left._tag, "None")
      yield* Effect.repeat(Effect.andThen(Effect.sleep("5 millis"), server.stats), {
        times: 100,
        until: ({ aborted }) => aborted === 1
      })
      assert.deepInclude(yield* server.stats, { active: 0, aborted: 1 })
    }))

  test("- reads the question from standard input", (server) =>
    Effect.gen(function*() {
      yield* run(["ask", "-"], { env: keys(server), stdin: "Is it\nraining?\n" })
      assert.deepInclude((yield* server.requests)[0]?.body, {
        messages: [{ role: "user", content: "Is it\nraining?" }]
      })
    }))

  test("an empty question is refused before anybody is asked", (server) =>
    Effect.gen(function*() {
      const { err, exit } = yield* run(["ask", "-"], { env: keys(server), stdin: "\n" })
      failedQuietly(exit)
      assert.include(err, "✗ Invalid request: \"prompt\" must be a text")
      assert.strictEqual((yield* server.stats).received, 0)
    }))

  test("on a terminal: progress that goes away, a footer, colours, and no steering by the answer", (server) =>
    Effect.gen(function*() {
      yield* server.play(FaultServer.ok({ text: "a\u001b[2Jb\u0007", delayMillis: 250 }))
      const { err, out } = yield* run(["ask", "Hi"], { env: keys(server), terminal: true })
      assert.strictEqual(out, "a[2Jb\n")
      assert.include(err, "\u001b[2m")
      assert.match(
        withoutColours(err),
        /^⌫⠋ 0\.\d s {2}asking⌫(.*openai \(gpt-4\.1-mini\), attempt 1⌫)+openai · gpt-4\.1-mini · \d+ ms · \d+ \+ \d+ tokens\n$/
      )
    }))

  test("NO_COLOR and FORCE_COLOR are respected", (server) =>
    Effect.gen(function*() {
      yield* server.always(FaultServer.error("Authentication"))
      const err = (env: Record<string, string>, terminal: boolean) =>
        Effect.map(run(["ask", "Hi"], { env: { ...only(server), ...env }, terminal }), (ran) => ran.err)
      assert.notInclude(yield* err({ NO_COLOR: "1" }, true), "\u001b[31m")
      assert.include(yield* err({}, true), "\u001b[31m")
      assert.include(yield* err({ FORCE_COLOR: "1" }, false), "\u001b[31m")
      assert.notInclude(yield* err({ TERM: "dumb" }, true), "\u001b")
    }))
})

describe("ask without keys", () => {
  it.live("says so, and answers from a simulated provider", () =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run(["ask", "What is AI?"], {
        env: { OPENAI_API_KEY: "", COHERE_API_KEY: " " }
      })
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(err, NOTICE)
      assert.isAtMost(NOTICE.length, 80)
      assert.include(out, "simulated answer")
      assert.include(out, "“What is AI?”")
    }))

  it.live("in the words of the provider that was named", () =>
    Effect.gen(function*() {
      const { err, out } = yield* run(["ask", "Hi", "-p", "anthropic", "--json"])
      assert.strictEqual(err, NOTICE)
      const { provider, simulated, text } = JSON.parse(out)
      assert.deepStrictEqual([provider, simulated], ["anthropic", true])
      assert.include(text, "in the words of anthropic")
    }))

  it.live("but not if another provider has one", () =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run(["ask", "Hi", "-p", "cohere"], { env: { OPENAI_API_KEY: "key" } })
      failedQuietly(exit)
      assert.strictEqual(out, "")
      assert.strictEqual(
        err,
        "✗ There is no key for cohere: the environment variable COHERE_API_KEY is not set.\n" +
          "→ Set COHERE_API_KEY, or leave out --provider.\n"
      )
    }))

  it.live("a key that cannot be one is named by its variable", () =>
    Effect.gen(function*() {
      const { err, exit } = yield* run(["ask", "Hi"], { env: { OPENAI_API_KEY: "two words" } })
      failedQuietly(exit)
      assert.notInclude(err, "two words")
      assert.include(err, "→ Check OPENAI_API_KEY, and OPENAI_BASE_URL if you set it.")
    }))
})
