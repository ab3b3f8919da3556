import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { createHash } from "node:crypto"
import { sha256 } from "../../src/internal/sha256.ts"

const expected = (text: string): string => createHash("sha256").update(text).digest("hex")

describe("sha256", () => {
  it("the vectors of the standard", () => {
    assert.strictEqual(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert.strictEqual(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert.strictEqual(
      sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    )
    assert.strictEqual(sha256("a".repeat(1_000_000)), expected("a".repeat(1_000_000)))
  })

  it("every length around the borders of a block", () => {
    for (let length = 0; length <= 130; length++) {
      const text = "0123456789".repeat(13).slice(0, length)
      assert.strictEqual(sha256(text), expected(text), `${length}`)
    }
  })

  it.prop(
    "whole texts as UTF-8",
    { text: Schema.String },
    ({ text }) => {
      const whole = text.replaceAll(/\p{Cs}/gu, "")
      assert.strictEqual(sha256(whole), expected(whole))
    },
    { arbitrary: { runs: 200, seed: 3 } }
  )

  it("halves of characters are told apart, and from what they would be replaced by", () => {
    const texts = ["a\uD800b", "a\uD801b", "a\uDC00b", "a\uFFFDb", "a\u{10000}b", "a?b", "\uDC00\uD800", "\u{10000}"]
    assert.strictEqual(new Set(texts.map(sha256)).size, texts.length)
    // The three bytes that the number of the half would have.
    const bytes = Uint8Array.from([0x61, 0xed, 0xa0, 0x80, 0xc3, 0xbc, 0xf0, 0x90, 0x80, 0x80])
    assert.strictEqual(sha256("a\uD800ü\u{10000}"), createHash("sha256").update(bytes).digest("hex"))
  })
})
