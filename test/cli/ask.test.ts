import { assert, describe, it } from "@effect/vitest"
import { Cause, type Duration, Effect, Exit, PlatformError, type Scope, Stream } from "effect"
import { FaultServer } from "effect-resilient-llm/testing"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
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

const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "ask-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
)

const test = (
  name: string,
  body: (server: FaultServer.FaultServer) => Effect.Effect<void, unknown, Scope.Scope>
) => it.live(name, () => Effect.scoped(Effect.flatMap(FaultServer.make({ reply: () => "Forty-two." }), body)))

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

  test("with --state or LLM_STATE the same question is paid for once", (server) =>
    Effect.gen(function*() {
      const folder = yield* temporary
      for (
        const [name, args, env] of [
          ["flag", ["--state", `sqlite:${join(folder, "flag.db")}`], {}],
          ["variable", [], { LLM_STATE: `sqlite:${join(folder, "variable.db")}` }]
        ] as const
      ) {
        const before = (yield* server.requests).length
        for (let i = 0; i < 2; i++) {
          const { exit, out } = yield* run(["ask", "What?", ...args], { env: { ...keys(server), ...env } })
          assert.isTrue(Exit.isSuccess(exit))
          assert.strictEqual(out, "Forty-two.\n")
        }
        assert.strictEqual((yield* server.requests).length - before, 1, name)
      }
      const { err, exit } = yield* run(["ask", "What?", "--state", "mysql://root:geheim@host"], { env: keys(server) })
      failedQuietly(exit)
      assert.include(err, "sqlite:<file>")
      assert.notInclude(err, "geheim")
    }))

  test("LLM_… variables are the options of its pipeline", (server) =>
    Effect.gen(function*() {
      yield* server.play(FaultServer.error("Overloaded"))
      const args = ["ask", "Hi", "-p", "openai"]
      const { err, exit } = yield* run(args, { env: { ...keys(server), LLM_RETRY_MAX_RETRIES: "0" } })
      failedQuietly(exit)
      assert.include(err, "overloaded")
      assert.lengthOf(yield* server.requests, 1)
      const wrong = yield* run(args, { env: { ...keys(server), LLM_RETRY_MAX_RETRYS: "0" } })
      failedQuietly(wrong.exit)
      assert.include(wrong.err, "\"LLM_RETRY_MAX_RETRYS\" must be one of LLM_RETRY_MAX_RETRIES, ")
      assert.lengthOf(yield* server.requests, 1)
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

  test("what is piped in comes behind the question", (server) =>
    Effect.gen(function*() {
      const asked = (args: ReadonlyArray<string>, given: Parameters<typeof run>[1]) =>
        Effect.gen(function*() {
          yield* server.reset
          const { err, exit } = yield* run(["ask", ...args], { env: keys(server), ...given })
          assert.isTrue(Exit.isSuccess(exit), err)
          const [request] = yield* server.requests
          return (request!.body as { messages: ReadonlyArray<{ content: unknown }> }).messages.at(-1)?.content
        })
      assert.strictEqual(yield* asked(["Summarise"], { stdin: "a\ndoc\n" }), "Summarise\n\na\ndoc")
      assert.strictEqual(yield* asked([], { stdin: "Is it\nraining?" }), "Is it\nraining?")
      assert.strictEqual(yield* asked(["Hi"], { stdin: " \n" }), "Hi")
      // A terminal is not read, unless by name.
      const typed = Stream.fromIterable([new TextEncoder().encode("typed")])
      assert.strictEqual(yield* asked(["Hi"], { typing: true, stdin: typed }), "Hi")
      assert.strictEqual(yield* asked(["-"], { typing: true, stdin: typed }), "typed")
      // Chunks may end inside of a character.
      const bytes = new TextEncoder().encode("né")
      const cut = Stream.fromIterable([bytes.slice(0, 2), bytes.slice(2)])
      assert.strictEqual(yield* asked([], { stdin: cut }), "né")
    }))

  test("a pipe that is too large, or breaks, is refused before anybody is asked", (server) =>
    Effect.gen(function*() {
      const endless = Stream.forever(Stream.succeed(new Uint8Array(1024 * 1024)))
      const large = yield* run(["ask", "Hi"], { env: keys(server), stdin: endless })
      failedQuietly(large.exit)
      assert.strictEqual(large.err, "✗ Standard input is larger than 20 MiB.\n")
      const broken = Stream.fail(PlatformError.systemError({ _tag: "BadResource", module: "Stdio", method: "stdin" }))
      const { err } = yield* run(["ask", "Hi"], { env: keys(server), stdin: broken })
      assert.strictEqual(err, "✗ Standard input cannot be read (BadResource).\n")
      // As `git` and `grep` tell binary from text; UTF-16 is not read either.
      const binary = yield* run(["ask", "Hi"], { env: keys(server), stdin: "\u0089PNG\u0000" })
      failedQuietly(binary.exit)
      assert.strictEqual(binary.err, "✗ Standard input is not text; images and documents go with --file.\n")
      const nothing = yield* run(["ask"], { env: keys(server), typing: true })
      failedQuietly(nothing.exit)
      assert.strictEqual(nothing.err, "✗ Nothing is asked: give a prompt, or pipe one in.\n")
      assert.strictEqual((yield* server.stats).received, 0)
    }))

  test("a standard input that stays open and silent hinders nobody who has something to ask", (server) =>
    Effect.gen(function*() {
      const late = (after: Duration.Input) =>
        Stream.fromEffect(Effect.delay(Effect.succeed(new TextEncoder().encode("late")), after))
      const [silent, slow, waited] = yield* Effect.all([
        run(["ask", "Hi"], { env: keys(server), stdin: Stream.never }),
        run(["ask", "Hi"], {
          env: keys(server),
          stdin: Stream.concat(Stream.make(new TextEncoder().encode("not ")), late("3500 millis"))
        }),
        run(["ask", "-"], { env: keys(server), stdin: late("3500 millis") })
      ], { concurrency: 3 })
      assert.strictEqual(silent.err, "Nothing came from standard input for 3 seconds: asking without it.\n")
      assert.strictEqual(silent.out, "Forty-two.\n")
      assert.strictEqual(slow.err, "")
      assert.strictEqual(waited.err, "Reading standard input until it ends …\n")
      const asked = JSON.stringify((yield* server.requests).map(({ body }) => body))
      assert.include(asked, JSON.stringify("Hi\n\nnot late"))
      assert.include(asked, "\"content\":\"late\"")
      assert.include(asked, "\"content\":\"Hi\"")
    }))

  test("--file goes beside the question, as what its name says", (server) =>
    Effect.gen(function*() {
      const folder = yield* temporary
      writeFileSync(join(folder, "Cat.PNG"), Buffer.from("89504e47", "hex"))
      writeFileSync(join(folder, "doc.pdf"), "%PDF-1.4")
      const { err, exit } = yield* run(
        [
          "ask",
          "What is it?",
          "-f",
          join(folder, "Cat.PNG"),
          "--file",
          join(folder, "doc.pdf"),
          "--system",
          "Briefly."
        ],
        { env: keys(server) }
      )
      assert.isTrue(Exit.isSuccess(exit), err)
      const [request] = yield* server.requests
      assert.deepInclude(request?.body, {
        messages: [
          { role: "system", content: "Briefly." },
          {
            role: "user",
            content: [
              { type: "text", text: "What is it?" },
              { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw==" } },
              {
                type: "file",
                file: { filename: "doc.pdf", file_data: "data:application/pdf;base64,JVBERi0xLjQ=" }
              }
            ]
          }
        ]
      })
    }))

  test("--file that cannot be sent is refused before anybody is asked", (server) =>
    Effect.gen(function*() {
      const folder = yield* temporary
      writeFileSync(join(folder, "large.png"), new Uint8Array(20 * 1024 * 1024 + 1))
      const said = (file: string) =>
        Effect.map(run(["ask", "Hi", "--file", file], { env: keys(server) }), ({ err, exit, out }) => {
          failedQuietly(exit)
          assert.strictEqual(out, "")
          return err
        })
      assert.strictEqual(
        yield* said("cat.bmp"),
        "✗ --file cat.bmp must end in .png, .jpg, .jpeg, .gif, .webp, .pdf, .mp3, .wav; texts are piped in.\n"
      )
      assert.strictEqual(yield* said("no/such.png"), "✗ --file no/such.png cannot be read (NotFound).\n")
      assert.match(yield* said(join(folder, "large.png")), /large\.png is larger than 20 MiB\.\n$/)
      mkdirSync(join(folder, "folder.png"))
      assert.match(yield* said(join(folder, "folder.png")), /folder\.png cannot be read \(\w+\)\.\n$/)
      assert.strictEqual((yield* server.stats).received, 0)
      const { out } = yield* run(["ask", "Hi", "--json", "--file", "cat.bmp"], { env: keys(server) })
      assert.deepInclude(JSON.parse(out).error, { tag: "InputError" })
    }))

  const report = {
    type: "object",
    properties: { city: { type: "string" }, celsius: { type: "number", maximum: 60 } },
    required: ["city", "celsius"],
    additionalProperties: false
  }

  for (
    const [flags, look] of [[[], (value: unknown) => value], [
      ["--json"],
      ({ value }: { value: unknown }) => value
    ]] as const
  ) {
    test(`--object ${flags.join("")} prints a value that fits the schema; what does not is asked for again`, (server) =>
      Effect.gen(function*() {
        const file = join(yield* temporary, "report.json")
        writeFileSync(file, JSON.stringify(report))
        yield* server.play(
          FaultServer.ok({ text: `{ "city": "Berlin", "celsius": 600 }` }),
          FaultServer.ok({ text: `{ "city": "Berlin", "celsius": 21 }` })
        )
        const { err, exit, out } = yield* run(["ask", "How warm?", "--object", file, ...flags], {
          env: keys(server),
          stdin: "Berlin has 21 degrees."
        })
        assert.isTrue(Exit.isSuccess(exit), err)
        assert.deepStrictEqual(look(JSON.parse(out)), { city: "Berlin", celsius: 21 })
        const [first, second] = yield* server.requests
        assert.deepInclude(first?.body, {
          messages: [{ role: "user", content: "How warm?\n\nBerlin has 21 degrees." }],
          response_format: { type: "json_schema", json_schema: { name: "object", schema: report } }
        })
        assert.include(JSON.stringify(second?.body), "does not fit the JSON schema: celsius")
      }))
  }

  test("--object: an answer that never fits, and schemas that are none", (server) =>
    Effect.gen(function*() {
      const folder = yield* temporary
      const file = join(folder, "schema.json")
      const said = (schema: string) =>
        Effect.gen(function*() {
          writeFileSync(file, schema)
          const { err, exit, out } = yield* run(["ask", "Hi", "--object", file], { env: only(server) })
          failedQuietly(exit)
          assert.strictEqual(out, "")
          return err.replaceAll(folder, "…")
        })
      assert.include(yield* said(JSON.stringify(report)), "→ Ask another --model, or for something simpler.\n")
      assert.strictEqual((yield* server.stats).received, 2)
      assert.strictEqual(yield* said("{"), "✗ --object …/schema.json is not JSON.\n")
      assert.strictEqual(
        yield* said("[]"),
        "✗ --object …/schema.json is no JSON Schema that can be followed: it must be an object.\n"
      )
      // Effect reads a type that it does not know as anything.
      assert.strictEqual(
        yield* said(`{ "type": "object", "properties": { "list": { "items": { "type": ["null", "int"] } } } }`),
        "✗ --object …/schema.json is no JSON Schema that can be followed: properties.list.items.type must be one of " +
          "string, number, integer, boolean, object, array, null.\n"
      )
      assert.strictEqual(
        yield* said(`{ "type": "object", "properties": { "age": "number" } }`),
        "✗ --object …/schema.json is no JSON Schema that can be followed: properties.age must be an object.\n"
      )
      assert.match(
        yield* said(`{ "type": "object", "if": { "required": ["a"] }, "then": { "required": ["b"] } }`),
        /^✗ --object …\/schema\.json is no JSON Schema that can be followed: .*if/
      )
      assert.strictEqual((yield* server.stats).received, 2)
    }))

  test("--object without a key says that nobody can answer, and asks nobody", () =>
    Effect.gen(function*() {
      const file = join(yield* temporary, "report.json")
      writeFileSync(file, JSON.stringify(report))
      const { err, exit, out } = yield* run(["ask", "How warm?", "--object", file], { env: {} })
      failedQuietly(exit)
      assert.strictEqual(out, "")
      assert.strictEqual(
        err,
        "✗ --object needs a model, and there is no OPENAI_API_KEY, ANTHROPIC_API_KEY or COHERE_API_KEY: " +
          "what is simulated fits no schema.\n"
      )
    }))

  test("--object takes the older drafts", (server) =>
    Effect.gen(function*() {
      const file = join(yield* temporary, "schema.json")
      const schema = {
        $schema: "http://json-schema.org/draft-07/schema#",
        definitions: { Name: { type: "string" } },
        type: "array",
        items: [{ $ref: "#/definitions/Name" }, { type: "integer" }]
      }
      writeFileSync(file, JSON.stringify(schema))
      yield* server.play(FaultServer.ok({ text: `["a", 1]` }))
      const { out } = yield* run(["ask", "Hi", "--object", file], { env: keys(server) })
      assert.deepStrictEqual(JSON.parse(out), ["a", 1])
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

  test("but not if an address is set, whose server may take any key", (server) =>
    Effect.gen(function*() {
      const env = { OPENAI_BASE_URL: server.openai }
      const { err, exit, out } = yield* run(["ask", "Hi"], { env })
      failedQuietly(exit)
      assert.strictEqual(out, "")
      assert.include(err, "✗ There is no key for openai: the environment variable OPENAI_API_KEY is not set.")
      assert.include(err, "Set OPENAI_API_KEY: to any text, if the server at OPENAI_BASE_URL wants no key.")
      assert.strictEqual((yield* server.stats).received, 0)
      const answered = yield* run(["ask", "Hi"], { env: { ...env, OPENAI_API_KEY: "any" } })
      assert.strictEqual(answered.out, "Forty-two.\n")
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
