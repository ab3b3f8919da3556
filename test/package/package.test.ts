// What is in the package: what its links lead to, what it weighs, and a fresh person's path: an empty folder, the README's
// own install line, the README's own programs under a strict compiler, and then they run.
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { FaultServer } from "effect-resilient-llm/testing"
import { execFile } from "node:child_process"
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join, posix } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { fencesOf, programsOf } from "../doctest/generate.ts"
import { pack, type Packed, smallest } from "./pack.ts"

const run = promisify(execFile)
const root = new URL("../../", import.meta.url)
const read = (file: string): string => readFileSync(new URL(file, root), "utf8")
const readme = read("README.md")
const versions = (JSON.parse(read("package.json")) as { devDependencies: Record<string, string> }).devDependencies

const tsconfig = {
  include: ["*.ts"],
  compilerOptions: {
    target: "ES2023",
    lib: ["ES2023", "ESNext.Disposable"],
    module: "NodeNext",
    types: ["node"],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noPropertyAccessFromIndexSignature: true,
    noImplicitOverride: true,
    noImplicitReturns: true,
    noUnusedLocals: true,
    verbatimModuleSyntax: true,
    erasableSyntaxOnly: true,
    skipLibCheck: true,
    noEmit: true,
    allowImportingTsExtensions: true
  }
}

const scope = Scope.makeUnsafe()
let packed: Packed
beforeAll(async () => {
  packed = await pack()
})
afterAll(async () => {
  await Effect.runPromise(Scope.close(scope, Exit.void))
  packed[Symbol.dispose]()
})

/** The anchor that GitHub and npm give a heading. */
const anchor = (heading: string): string =>
  heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(/\s/g, "-")

describe("the package", () => {
  const inside = (file: string): string => readFileSync(join(packed.folder, "package", file), "utf8")

  it("says where it comes from", () => {
    const { bugs, homepage, repository } = JSON.parse(inside("package.json")) as Record<string, unknown>
    const address = "https://github.com/effect-resilient-llm/effect-resilient-llm"
    assert.deepStrictEqual(
      { bugs, homepage, repository },
      {
        bugs: `${address}/issues`,
        homepage: `${address}#readme`,
        repository: { type: "git", url: `git+${address}.git` }
      }
    )
  })

  // npm shows relative links as links into the repository, an editor opens them in node_modules: they must be in both.
  it("has what its pages link to", () => {
    const dead: Array<string> = []
    for (const page of packed.files.filter((file) => file.endsWith(".md"))) {
      const text = inside(page).replaceAll(/^ *```[^]*?^ *```/gm, "")
      for (const [, link = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(link)) continue
        const [path = "", fragment] = link.split("#")
        const file = path === "" ? page : posix.join(posix.dirname(page), path)
        if (!packed.files.some((one) => one === file || one.startsWith(`${file.replace(/\/$/, "")}/`))) {
          dead.push(`${page}: ${link} is not in the package`)
        } else if (fragment !== undefined) {
          const headings = [...inside(file).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchor(heading))
          if (!headings.includes(fragment)) dead.push(`${page}: ${link} has no such heading`)
        }
      }
    }
    assert.deepStrictEqual(dead, [])
  })

  it("has no declarations that repeat what others say", () => {
    const large = packed.files.filter((file) => file.endsWith(".d.ts") && inside(file).length > 40_000)
    assert.deepStrictEqual(large, [])
    assert.isBelow(inside("dist/LlmError.d.ts").length, 30_000)
  })

  it("is not heavier than it has to be", async () => {
    assert.isBelow(packed.packedBytes, 1_500_000)
    assert.isBelow(packed.unpackedBytes, 6_500_000)
    // The client and OpenAI, with what they need of Effect.
    assert.isBelow((await smallest()).gzipped, 150_000)
  })
})

const { error, ok } = FaultServer
const toolCall = ok({ toolCalls: [{ name: "Weather", params: { city: "Berlin" } }] })
const busy = error("Overloaded")

/**
 * What the vendor says to each program, what the program prints, and what it prints when it is run again and the vendor is
 * not asked. Empty: it is there for others to import.
 */
const programs: Readonly<
  Record<string, readonly [ReadonlyArray<FaultServer.Fault>, RegExp, again?: RegExp] | undefined>
> = {
  "hello.ts": [[busy, ok({ text: "Hello." })], /^Hello\.\n$/],
  "llm.ts": undefined,
  "chat.ts": [[ok({ text: "Paris" }), ok({ text: "The Seine." })], /^Paris\nThe Seine\.\n$/],
  "tools.ts": [[toolCall, ok({ text: "21 degrees." })], /^21 degrees\.\n$/],
  "json.ts": [
    [ok({ text: "{\"city\":\"Berlin\"}" }), ok({ text: "{\"city\":\"Berlin\",\"celsius\":21}" })],
    /^Berlin 22\n$/
  ],
  "stream.ts": [[busy, ok({ chunks: ["Once ", "upon ", "a time."] })], /^Once upon a time\.$/],
  "failures.ts": [[ok({ text: "Hi" })], /^provider openai \[\s+'CallStarted',[^]*'CallEnded'\s+\]\n$/],
  "effect-ai.ts": [[toolCall, busy, ok({ text: "21 degrees." })], /^21 degrees\.\n$/],
  "promise.ts": [[ok({ text: "Hello." }), ok({ chunks: ["More ", "of it."] })], /^Hello\.\nMore of it\.$/],
  "ai-sdk.ts": [[busy, ok({ text: "Hello." })], /^Hello\.\n$/],
  "state.ts": [[ok({ text: "Thanks." })], /^provider\n$/, /^replay\n$/]
}

/** Node's `fetch` says so in every request. */
const isOfFetch = ({ headers }: FaultServer.Recorded): boolean => headers["sec-fetch-mode"] !== undefined

describe.concurrent("a fresh person", () => {
  let project: string
  beforeAll(async () => {
    project = join(packed.folder, "project")
    mkdirSync(project)
    writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }))
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify(tsconfig))
    for (const [name, code] of programsOf(readme)) writeFileSync(join(project, name), code)
    for (const { code, line } of fencesOf("README.md", readme)) writeFileSync(join(project, `line-${line}.ts`), code)
    const line = /^npm install (effect-resilient-llm .*)$/m.exec(readme)?.[1]
    assert.isDefined(line, "the README has an install line")
    const tools = ["@types/node", "ai"].map((name) => `${name}@${versions[name]}`)
    await run(
      "npm",
      [
        "install",
        "--prefer-offline",
        "--no-audit",
        "--no-fund",
        ...line.replace("effect-resilient-llm", packed.tarball).split(" "),
        ...tools
      ],
      { cwd: project }
    )
  })

  const start = (file: string, env: Readonly<Record<string, string>>, args: ReadonlyArray<string> = []) =>
    run(process.execPath, [file, ...args], {
      cwd: project,
      env: { PATH: process.env["PATH"], ...env },
      timeout: 60_000
    })

  const compile = async (folder: string): Promise<ReadonlyArray<string>> => {
    const tsc = fileURLToPath(new URL("node_modules/typescript/bin/tsc", root))
    const { stdout } = await run(process.execPath, [tsc, "-p", folder], { cwd: project }).catch((failed: unknown) =>
      failed as { stdout: string }
    )
    return stdout.split("\n").filter((line) => line !== "")
  }

  it("compiles every block of the README", async () => {
    assert.deepStrictEqual(await compile("."), [])
  })

  // With the libraries' own types checked: whatever is missing in ours would be `any` to everybody else, silently. Those of
  // Effect want the DOM.
  it("has types that are whole, at every entry point", async () => {
    const entries = packed.files.flatMap((file) => /^dist\/(.*)\.d\.ts$/.exec(file)?.slice(1) ?? [])
      .map((path) => path.replace(/(^|\/)index$/, ""))
      .filter((path) => !/(^|\/)internal\//.test(path) && !/^(cli|pipeline)\//.test(path) && path !== "Pipeline")
    assert.isNotEmpty(entries)
    const code = entries.map((path, i) => `export * as m${i} from "${join("effect-resilient-llm", path)}"\n`).join("")
    mkdirSync(join(project, "types"))
    writeFileSync(join(project, "types/all.ts"), code)
    const compilerOptions = {
      ...tsconfig.compilerOptions,
      lib: ["ES2023", "DOM", "ESNext.Disposable"],
      skipLibCheck: false
    }
    writeFileSync(join(project, "types/tsconfig.json"), JSON.stringify({ include: ["*.ts"], compilerOptions }))
    assert.deepStrictEqual((await compile("types")).filter((line) => /effect-resilient-llm|^types/.test(line)), [])
  })

  it("finds the programs that are expected here", () => {
    assert.deepStrictEqual([...programsOf(readme).keys()].toSorted(), Object.keys(programs).toSorted())
  })

  it.each(Object.entries(programs))("runs %s", async (file, expected) => {
    const [script, printed, again] = expected ?? [[], /^$/]
    const server = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
    await Effect.runPromise(server.play(...script))
    const env = {
      OPENAI_API_KEY: "key",
      OPENAI_BASE_URL: server.openai,
      ANTHROPIC_API_KEY: "key",
      ANTHROPIC_BASE_URL: server.anthropic
    }
    assert.match((await start(file, env)).stdout, printed)
    if (again !== undefined) assert.match((await start(file, env)).stdout, again)
    assert.strictEqual((await Effect.runPromise(server.stats)).received, script.length)
  })

  it("has promises that go over the fast transport on Node", async () => {
    const server = await Effect.runPromise(Scope.provide(FaultServer.make({ reply: () => "Hello." }), scope))
    await start("promise.ts", { OPENAI_API_KEY: "key", OPENAI_BASE_URL: server.openai })
    const requests = await Effect.runPromise(server.requests)
    assert.deepStrictEqual(requests.map(isOfFetch), [false, false])
  })

  it("has a program that asks, or says that nobody was asked", async () => {
    const { stderr, stdout } = await start("node_modules/effect-resilient-llm/dist/cli/bin.js", {}, [
      "ask",
      "What is AI?"
    ])
    assert.include(stdout, "no model was asked")
    assert.include(stderr, "the answer is simulated")
  })

  it("does without the peers that are optional, and is told which one is missing", async () => {
    const bare = join(packed.folder, "bare")
    const modules = join(bare, "node_modules")
    cpSync(join(project, "node_modules/effect-resilient-llm"), join(modules, "effect-resilient-llm"), {
      recursive: true
    })
    symlinkSync(join(project, "node_modules/effect"), join(modules, "effect"))
    cpSync(join(project, "promise.ts"), join(bare, "promise.ts"))
    const server = await Effect.runPromise(Scope.provide(FaultServer.make({ reply: () => "Hello." }), scope))
    const { stdout } = await start(join(bare, "promise.ts"), { OPENAI_API_KEY: "key", OPENAI_BASE_URL: server.openai })
    assert.strictEqual(stdout, "Hello.\nHello.")
    assert.isTrue((await Effect.runPromise(server.requests)).every(isOfFetch))
    const { stderr } = await start(join(modules, "effect-resilient-llm/dist/cli/bin.js"), {}, ["ask", "Hi"]).then(
      () => assert.fail("asks without a transport"),
      (failed: unknown) => failed as { stderr: string }
    )
    assert.match(stderr, /^resilient-llm needs the package @effect\/platform-node\. .*\n$/)
  })

  it("runs the blocks that need no vendor", async () => {
    for (const { line } of fencesOf("README.md", readme)) await start(`line-${line}.ts`, {})
  })

  it("gets one sentence where there is no key", async () => {
    for (const file of ["hello.ts", "chat.ts", "promise.ts"]) {
      const { code, stderr, stdout } = await start(file, {}).then(
        () => assert.fail(`${file} runs without a key`),
        (failed: unknown) => failed as { code: number; stdout: string; stderr: string }
      )
      const told = `${stdout}${stderr}`.split("\n").filter((line) => line.includes("OPENAI_API_KEY"))
      assert.deepStrictEqual([file, code, told.length], [file, 1, 1], stderr)
    }
  })
})
