import { assert, describe, it } from "@effect/vitest"
import { hidesNothing, masked } from "effect-resilient-llm/providers/internal/secrets"

const plain = "sk-proj-Abc_def-0123456789"
const token = "FwoG/Zx9+Qw8\"Er7==é"

const base64 = (text: string): string => Buffer.from(text).toString("base64")

describe.each([plain, token])("%s", (secret) => {
  const rows: ReadonlyArray<readonly [name: string, text: string]> = [
    ["as it is", secret],
    ["in a text", `Incorrect key: '${secret}'.`],
    ["in capitals", secret.toUpperCase()],
    ["in small letters", secret.toLowerCase()],
    ["percent-encoded", encodeURIComponent(secret)],
    ["percent-encoded to the last character", Buffer.from(secret).toString("hex").replace(/../g, "%$&")],
    ["percent-encoded beside a percent sign", `100 % of ${encodeURIComponent(secret)} is used`],
    ["percent-encoded beside bytes that are no text", `%FF ${encodeURIComponent(secret)}`],
    ["in JSON", JSON.stringify({ secret })],
    ["in hexadecimal digits", Buffer.from(secret).toString("hex").toUpperCase()],
    ...["", "x", "xy", "user:"].flatMap((before) =>
      ["", "z", "zz"].map((after): readonly [string, string] => [
        `in base64 between "${before}" and "${after}"`,
        base64(before + secret + after)
      ])
    ),
    ["in base64 for addresses", Buffer.from(secret).toString("base64url")]
  ]
  it.each(rows)("%s", (_, text) => {
    assert.isFalse(hidesNothing(text, [secret]))
    assert.isFalse(hidesNothing(text, ["another-key", secret]))
    const rest = masked(text, [secret])
    if (rest !== undefined) assert.isTrue(hidesNothing(rest, [secret]), rest)
    assert.isTrue(hidesNothing(text, []))
    assert.isTrue(hidesNothing(text, undefined))
  })
})

it("another text hides nothing", () => {
  for (const text of ["", "invalid_api_key", "req_0123456789", "gpt-4.1-mini", "%E0%A4%A", "100 %"]) {
    assert.isTrue(hidesNothing(text, [plain, token]), text)
    assert.strictEqual(masked(text, [plain, token]), text)
  }
})

it("a placeholder is no secret", () => {
  assert.isTrue(hidesNothing("ollama", ["ollama"]))
})

it("what is left of a text is shown", () => {
  assert.strictEqual(masked(`Incorrect key: ${plain}, see ${plain}`, [plain]), "Incorrect key: [key], see [key]")
  assert.strictEqual(masked(`?key=${encodeURIComponent(token)}&x`, [token]), "?key=[key]&x")
  assert.isUndefined(masked(`Incorrect key: ${base64(plain)}`, [plain]))
})

it("is quick for a long answer and many secrets", () => {
  const secrets = Array.from({ length: 32 }, (_, i) => `${plain}${i}`)
  const text = "a b-c_d%41".repeat(400)
  const start = performance.now()
  for (let i = 0; i < 100; i++) assert.isTrue(hidesNothing(text, secrets))
  assert.isBelow(performance.now() - start, 1000)
})
