// The package as npm would publish it, made in a folder of its own: a build in the work tree would pull `dist` away from
// under whoever reads it. `npm run size` prints what it weighs.
import { execFile } from "node:child_process"
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { type Size, sizeOf } from "../bench/groups/bundle.ts"

const run = promisify(execFile)
const root = fileURLToPath(new URL("../..", import.meta.url))

export interface Packed extends Disposable {
  /** Holds the tarball and `package`, the folder it was made of. */
  readonly folder: string
  readonly tarball: string
  /** The paths in the tarball. */
  readonly files: ReadonlyArray<string>
  readonly packedBytes: number
  readonly unpackedBytes: number
}

export const pack = async (): Promise<Packed> => {
  const folder = mkdtempSync(join(tmpdir(), "package-"))
  const from = join(folder, "package")
  const { files } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { files: ReadonlyArray<string> }
  for (const file of ["package.json", "README.md", "LICENSE", ...files.filter((file) => !/^!|^dist$/.test(file))]) {
    cpSync(join(root, file), join(from, file), { recursive: true })
  }
  const tsc = join(root, "node_modules/typescript/bin/tsc")
  const config = join(root, ".config/tsconfig.build.json")
  await run(process.execPath, [tsc, "-p", config, "--outDir", join(from, "dist")], { cwd: root })
  const { stdout } = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
    cwd: from,
    maxBuffer: 64 * 1024 * 1024
  })
  const [told] = JSON.parse(stdout) as readonly [{
    readonly filename: string
    readonly size: number
    readonly unpackedSize: number
    readonly files: ReadonlyArray<{ readonly path: string }>
  }]
  return {
    folder,
    tarball: join(folder, told.filename),
    files: told.files.map(({ path }) => path),
    packedBytes: told.size,
    unpackedBytes: told.unpackedSize,
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true })
  }
}

/** What an application pays for the least it can import. */
export const smallest = (): Promise<Size> => sizeOf("the client and OpenAI")

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  using packed = await pack()
  const { gzipped, minified } = await smallest()
  const kB = (bytes: number): string => `${(bytes / 1000).toFixed(0)} kB`
  console.log(`packed    ${kB(packed.packedBytes)}, ${packed.files.length} files`)
  console.log(`unpacked  ${kB(packed.unpackedBytes)}`)
  console.log(`bundled   ${kB(minified)} minified, ${kB(gzipped)} gzipped: LlmClient and OpenAi, with Effect`)
}
