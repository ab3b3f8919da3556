// One process that stays: all tests, then all mutants one after the other (`runner.mjs`), or with MUTANT set all tests
// under one mutant that is on from the beginning.
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import tests from "./tests.ts"

const { MUTANT, MUTATION } = process.env
const isOne = MUTANT !== undefined
const code = new Map(JSON.parse(readFileSync(`${MUTATION}/code.json`, "utf8")))

export default {
  ...tests,
  cacheDir: `${MUTATION}/vite`,
  plugins: [
    { name: "mutants", enforce: "pre", load: (id) => code.has(id) ? { code: code.get(id), map: null } : null }
  ],
  test: {
    ...tests.test,
    ...(isOne
      ? { bail: 1, env: { __STRYKER_ACTIVE_MUTANT__: MUTANT }, testTimeout: 10_000 }
      : { runner: fileURLToPath(new URL("runner.mjs", import.meta.url)), testTimeout: 3_600_000 }),
    fileParallelism: false,
    maxWorkers: 1,
    pool: "forks",
    reporters: ["dot"],
    silent: true
  }
}
