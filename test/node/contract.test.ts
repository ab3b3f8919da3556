// What Effect's `HttpClient` promises, on three clients: one behaves as the others.
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as HttpBody from "effect/http/HttpBody"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { clients, serve, tagOf } from "./support.ts"

/** Answers with what it was sent. */
const echo = serve((request, response) => {
  const chunks: Array<Buffer> = []
  request.on("data", (chunk: Buffer) => chunks.push(chunk))
  request.on("end", () => {
    const { headers, method, url } = request
    const body = Buffer.concat(chunks).toString("utf8")
    response.setHeader("content-type", "application/json")
    response.setHeader("set-cookie", ["a=1; Path=/", "b=2"])
    response.setHeader("x-many", ["1", "2"])
    response.end(JSON.stringify({ method, url, headers, body }))
  })
})

interface Echo {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

const send = (request: HttpClientRequest.HttpClientRequest) =>
  Effect.flatMap(HttpClient.execute(request), (response) => response.json as unknown as Effect.Effect<Echo>)

const pieces = Stream.make("one ", "two ", "Grüezi 😀").pipe(Stream.encodeText, Stream.rechunk(1))

for (const [name, client] of clients) {
  describe(`${name} as an HttpClient`, () => {
    const test = <E>(what: string, effect: Effect.Effect<void, E, HttpClient.HttpClient | Scope.Scope>) =>
      it.live(what, () => Effect.provide(effect, client))

    test(
      "method, path, parameters and headers",
      Effect.gen(function*() {
        const { url } = yield* echo
        for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] as const) {
          const request = HttpClientRequest.make(method)(`${url}/a/b?x=1#there`, {
            urlParams: { y: "ä &=" },
            headers: { "X-One": "1", authorization: "Bearer k" }
          })
          const response = yield* HttpClient.execute(request)
          const seen = yield* response.json as unknown as Effect.Effect<Echo>
          assert.strictEqual(seen.method, method)
          assert.strictEqual(seen.url, "/a/b?x=1&y=%C3%A4+%26%3D")
          assert.strictEqual(seen.headers["x-one"], "1")
          assert.strictEqual(seen.headers["authorization"], "Bearer k")
          assert.strictEqual(response.url, `${url}/a/b?x=1&y=%C3%A4+%26%3D`)
          assert.strictEqual(response.status, 200)
          assert.strictEqual(response.headers["content-type"], "application/json")
          assert.strictEqual(response.headers["x-many"], "1, 2")
          assert.deepStrictEqual(Object.keys(response.cookies.cookies), ["a", "b"])
        }
      })
    )

    test(
      "all kinds of bodies",
      Effect.gen(function*() {
        const { url } = yield* echo
        const post = HttpClientRequest.post(url)
        const of = (body: HttpBody.HttpBody) => send(HttpClientRequest.setBody(post, body))
        assert.strictEqual((yield* of(HttpBody.empty)).body, "")
        const text = yield* of(HttpBody.text("Grüezi 😀", "text/plain"))
        assert.deepStrictEqual([text.body, text.headers["content-type"]], ["Grüezi 😀", "text/plain"])
        assert.strictEqual((yield* of(HttpBody.text("", "text/plain"))).body, "")
        assert.strictEqual((yield* of(HttpBody.uint8Array(Buffer.from("xabcx").subarray(1, 4)))).body, "abc")
        assert.strictEqual((yield* of(HttpBody.raw("raw text", { contentType: "text/x" }))).body, "raw text")
        assert.strictEqual((yield* of(HttpBody.jsonUnsafe({ a: [1] }))).body, "{\"a\":[1]}")
        const params = yield* of(HttpBody.urlParams({ a: "1 2" }))
        assert.deepStrictEqual(
          [params.body, params.headers["content-type"]],
          ["a=1+2", "application/x-www-form-urlencoded"]
        )
        const streamed = yield* of(HttpBody.stream(pieces, "text/plain"))
        assert.deepStrictEqual(
          [streamed.body, streamed.headers["transfer-encoding"]],
          ["one two Grüezi 😀", "chunked"]
        )
        const form = new FormData()
        form.append("name", "value")
        form.append("file", new Blob(["content"]), "file.txt")
        const multipart = yield* of(HttpBody.formData(form))
        assert.match(multipart.headers["content-type"]!, /^multipart\/form-data; ?boundary=/)
        for (const part of ["name=\"name\"", "value", "filename=\"file.txt\"", "content"]) {
          assert.include(multipart.body, part)
        }
      })
    )

    test(
      "all ways to read a body, as a whole as often as wanted",
      Effect.gen(function*() {
        const { url } = yield* serve((request, response) => {
          const type = request.url === "/form" ? "application/x-www-form-urlencoded" : "application/json"
          response.writeHead(200, { "content-type": type })
          response.write("\ufeff")
          const text = request.url === "/form" ? "a=1&b=ü" : "{\"text\":\"Grüezi 😀\"}"
          const bytes = Buffer.from(request.url === "/empty" ? "" : text)
          response.write(bytes.subarray(0, 12))
          setTimeout(() => response.end(bytes.subarray(12)), 5)
        })
        const response = yield* HttpClient.get(url)
        const value = { text: "Grüezi 😀" }
        assert.deepStrictEqual(yield* response.json, value)
        assert.strictEqual(yield* response.text, JSON.stringify(value))
        const [one, two] = yield* Effect.all([response.text, response.arrayBuffer], { concurrency: 2 })
        assert.strictEqual(one, JSON.stringify(value))
        assert.strictEqual(two.byteLength, Buffer.byteLength(`\ufeff${one}`))
        const together = yield* HttpClient.get(url)
        const [left, right] = yield* Effect.all([together.text, together.json], { concurrency: 2 })
        assert.deepStrictEqual(JSON.parse(left), right)
        const streamed = yield* HttpClient.get(url)
        assert.strictEqual(yield* Stream.mkString(Stream.decodeText(streamed.stream)), JSON.stringify(value))
        const form = yield* HttpClient.get(`${url}/form`)
        assert.strictEqual((yield* form.formData).get("b"), "ü")
        const wrong = yield* Effect.flip(Effect.flatMap(HttpClient.get(`${url}/form`), (response) => response.json))
        assert.strictEqual(tagOf(wrong), "DecodeError")
        const params = yield* Effect.flatMap(HttpClient.get(`${url}/form`), (response) => response.urlParamsBody)
        assert.deepStrictEqual(params.params.at(-1), ["b", "ü"])
      })
    )

    test(
      "answers without a body",
      Effect.gen(function*() {
        const { connections, url } = yield* serve((request, response) => {
          const status = Number(request.url?.slice(1))
          response.writeHead(status, request.method === "HEAD" ? { "content-length": "1000" } : {})
          response.end()
        })
        for (const status of [200, 201, 204, 205, 304, 404, 500]) {
          const response = yield* HttpClient.get(`${url}/${status}`)
          assert.strictEqual(response.status, status)
          assert.strictEqual(yield* response.text, "")
          assert.strictEqual((yield* response.arrayBuffer).byteLength, 0)
          assert.strictEqual(yield* response.json, null)
        }
        assert.isAtMost(connections(), 2)
        const head = yield* HttpClient.head(`${url}/200`)
        assert.deepStrictEqual([head.headers["content-length"], yield* head.text], ["1000", ""])
      })
    )

    test(
      "redirects are answers like others; followRedirects follows them",
      Effect.gen(function*() {
        const { url } = yield* serve((request, response) => {
          if (request.url === "/end") return response.end("arrived")
          response.writeHead(302, { location: "/end" })
          // More than fits into the buffers of a client that does not read it.
          response.end("x".repeat(300_000))
        })
        assert.strictEqual((yield* HttpClient.get(url)).status, 302)
        const following = HttpClient.followRedirects(yield* HttpClient.HttpClient)
        assert.strictEqual(yield* Effect.flatMap(following.get(url), (response) => response.text), "arrived")
      })
    )

    test(
      "what cannot be sent fails as such",
      Effect.gen(function*() {
        const { url } = yield* echo
        assert.strictEqual(tagOf(yield* Effect.flip(HttpClient.get("not a url"))), "InvalidUrlError")
        const bad = HttpClientRequest.setHeader(HttpClientRequest.get(url), "x-bad", "line\r\nbreak")
        assert.strictEqual(tagOf(yield* Effect.flip(HttpClient.execute(bad))), "TransportError")
        const torn = Stream.concat(pieces, Stream.fail(new Error("torn")))
        const broken = yield* Effect.flip(
          HttpClient.execute(HttpClientRequest.setBody(HttpClientRequest.post(url), HttpBody.stream(torn)))
        )
        assert.strictEqual(tagOf(broken), "TransportError")
        assert.strictEqual((yield* send(HttpClientRequest.get(url))).method, "GET")
      })
    )

    test(
      "an answer shows no secrets when it is printed",
      Effect.gen(function*() {
        const { url } = yield* echo
        const response = yield* HttpClient.get(url, { headers: { authorization: "Bearer secret" } })
        const printed = JSON.stringify(response) + String(response)
        assert.notInclude(printed, "secret")
        assert.include(printed, "200")
        assert.strictEqual(response.pipe((self) => self.status), 200)
      })
    )
  })
}
