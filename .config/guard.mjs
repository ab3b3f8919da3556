// Says in plain words why nothing can run here, instead of an obscure error later. Runs on any Node >= 14.
import { existsSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const [major, minor] = process.versions.node.split(".").map(Number)
// Types are stripped without a flag from 22.18 on; Effect's Node platform asks for 22.19.
const newEnough = major > 22 || (major === 22 && minor >= 19)

const stop = (lines) => {
  console.error(`\n${lines.join("\n")}\n`)
  process.exit(1)
}

if (!existsSync(`${root}node_modules/effect`)) {
  stop(["The dependencies are not installed.", "", "  npm ci"])
}

const { devDependencies } = JSON.parse(readFileSync(`${root}package.json`, "utf8"))
const missing = Object.keys(devDependencies).filter((name) => !existsSync(`${root}node_modules/${name}`))
if (missing.length > 0) {
  stop([`package.json has come to name what is not installed here: ${missing.join(", ")}.`, "", "  npm install"])
}

if (!newEnough) {
  const own = existsSync(`${root}node_modules/node/bin/node`) || existsSync(`${root}node_modules/node/bin/node.exe`)
  stop([
    `This is Node ${process.versions.node} (${process.execPath}), but effect-resilient-llm needs Node >= 22.19.`,
    ...(own
      ? [
        "The project has its own Node (devDependency `node`), which npm scripts and npx use.",
        "Start it that way:",
        "",
        "  npm start      npm test      npx vitest"
      ]
      : [
        "The project brings its own Node (devDependency `node`), but that package downloads the program in an install",
        "script, and install scripts were switched off (--ignore-scripts), so the system's Node runs instead.",
        "Do one of these:",
        "",
        "  npm ci                                     install again, without --ignore-scripts",
        "  npm rebuild node --foreground-scripts      run only that one install script now",
        "  or install Node >= 22.19 yourself          https://nodejs.org"
      ])
  ])
}

if (!process.features.typescript) {
  stop([
    `Node ${process.versions.node} can run TypeScript, but it is switched off here (NODE_OPTIONS or a build without it).`,
    "Remove --no-experimental-strip-types from NODE_OPTIONS, or use the Node of nodejs.org."
  ])
}
