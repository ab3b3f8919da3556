#!/usr/bin/env node
// The program of the package's `bin`. Everything else is loaded from here, so that a missing package can be named.
import("./main.ts").then(({ main }) => main()).catch((error: unknown) => {
  const missing = error instanceof Error && "code" in error && error.code === "ERR_MODULE_NOT_FOUND"
    ? /'(@effect\/platform-node|effect)[/']/.exec(error.message)?.[1]
    : undefined
  console.error(
    missing === undefined ? error : `resilient-llm needs the package ${missing}. Install it: npm install ${missing}`
  )
  process.exitCode = 1
})
