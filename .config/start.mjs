// `npm start` runs the demo, `npm start -- ask "What is AI?"` the given command, straight from the TypeScript sources.
import "./guard.mjs"
import { fileURLToPath } from "node:url"

const bin = new URL("../src/cli/bin.ts", import.meta.url)
const args = process.argv.slice(2)
process.argv = [process.argv[0], fileURLToPath(bin), ...(args.length === 0 ? ["demo"] : args)]
import(bin.href).catch((error) => {
  console.error(error)
  process.exitCode = 1
})
