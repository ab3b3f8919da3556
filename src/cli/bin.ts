#!/usr/bin/env node
// The program of the package's `bin`. Everything else is loaded from here, so that a Node that is too old, or a missing
// package, can be named.
const NODE = [22, 19] as const
const [major = 0, minor = 0] = process.version.slice(1).split(".").map(Number)

if (major < NODE[0] || (major === NODE[0] && minor < NODE[1])) {
  console.error(`resilient-llm needs Node ${NODE.join(".")} or newer; this is ${process.version}.`)
  process.exitCode = 1
} else {
  import("./main.ts").then(({ main }) => main()).catch((error: unknown) => {
    const missing = error instanceof Error && "code" in error && error.code === "ERR_MODULE_NOT_FOUND"
      ? /'(@effect\/platform-node|effect)[/']/.exec(error.message)?.[1]
      : undefined
    console.error(
      missing === undefined ? error : `resilient-llm needs the package ${missing}. Install it: npm install ${missing}`
    )
    process.exitCode = 1
  })
}
