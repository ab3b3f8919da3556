// What is in the package: what its links lead to, and what it weighs.
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { join, posix } from "node:path"
import { pack, type Packed, smallest } from "./pack.ts"

/** The anchor that GitHub and npm give a heading. */
const anchor = (heading: string): string =>
  heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(/\s/g, "-")

describe("the package", () => {
  let packed: Packed
  let read: (file: string) => string
  beforeAll(async () => {
    packed = await pack()
    read = (file) => readFileSync(join(packed.folder, "package", file), "utf8")
  }, 60_000)
  afterAll(() => packed[Symbol.dispose]())

  it("says where it comes from", () => {
    const { bugs, homepage, repository } = JSON.parse(read("package.json")) as Record<string, unknown>
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
      const text = read(page).replaceAll(/^ *```[^]*?^ *```/gm, "")
      for (const [, link = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(link)) continue
        const [path = "", fragment] = link.split("#")
        const file = path === "" ? page : posix.join(posix.dirname(page), path)
        if (!packed.files.some((one) => one === file || one.startsWith(`${file.replace(/\/$/, "")}/`))) {
          dead.push(`${page}: ${link} is not in the package`)
        } else if (fragment !== undefined) {
          const headings = [...read(file).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchor(heading))
          if (!headings.includes(fragment)) dead.push(`${page}: ${link} has no such heading`)
        }
      }
    }
    assert.deepStrictEqual(dead, [])
  })

  it("is not heavier than it has to be", async () => {
    assert.isBelow(packed.packedBytes, 1_300_000)
    assert.isBelow(packed.unpackedBytes, 5_500_000)
    // The client and OpenAI, with what they need of Effect.
    assert.isBelow((await smallest()).gzipped, 140_000)
  }, 60_000)
})
