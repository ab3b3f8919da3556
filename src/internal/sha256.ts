// SHA-256 (FIPS 180-4), synchronous: Web Crypto's is asynchronous and absent from pages without TLS.

/** The first 64 primes: their square and cube roots are the constants of the standard. */
const primes: Array<number> = []
for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime !== 0)) primes.push(n)

const fraction = (x: number): number => ((x - Math.floor(x)) * 2 ** 32) | 0
const START = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)))
const ROUND = primes.map((prime) => fraction(Math.cbrt(prime)))

const rotate = (x: number, by: number): number => (x >>> by) | (x << (32 - by))

const half = /[\uD800-\uDFFF]/u

// A surrogate without its other half has no UTF-8, and every one would be the same replacement: it gets the three bytes
// that its number would have (WTF-8), so that different texts have different digests.
const bytesOf = (text: string): Uint8Array => {
  const encoder = new TextEncoder()
  if (!half.test(text)) return encoder.encode(text)
  const bytes: Array<number> = []
  for (const character of text) {
    const code = character.codePointAt(0)!
    if (half.test(character)) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f))
    else bytes.push(...encoder.encode(character))
  }
  return Uint8Array.from(bytes)
}

/** The digest of a text's UTF-8 bytes, as 64 hexadecimal digits. */
export const sha256 = (text: string): string => {
  const message = bytesOf(text)
  const bytes = new Uint8Array((message.length + 9 + 63) & ~63)
  bytes.set(message)
  bytes[message.length] = 0x80
  const view = new DataView(bytes.buffer)
  view.setUint32(bytes.length - 8, Math.floor(message.length / 2 ** 29))
  view.setUint32(bytes.length - 4, message.length << 3)

  const state = Int32Array.from(START)
  const w = new Int32Array(64)
  for (let block = 0; block < bytes.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(block + 4 * i)
    for (let i = 16; i < 64; i++) {
      const [far, near] = [w[i - 15]!, w[i - 2]!]
      const s0 = rotate(far, 7) ^ rotate(far, 18) ^ (far >>> 3)
      const s1 = rotate(near, 17) ^ rotate(near, 19) ^ (near >>> 10)
      w[i] = w[i - 16]! + s0 + w[i - 7]! + s1
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number]
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i]! + w[i]!) | 0
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
      h = g
      g = f
      f = e
      e = (d + t1) | 0
      d = c
      c = b
      b = a
      a = (t1 + t2) | 0
    }
    for (const [i, x] of [a, b, c, d, e, f, g, h].entries()) state[i] = state[i]! + x
  }
  return Array.from(state, (x) => (x >>> 0).toString(16).padStart(8, "0")).join("")
}
