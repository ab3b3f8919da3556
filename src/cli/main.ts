// Runs the commands on Node.
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import { readFileSync } from "node:fs"
import * as Command from "./command.ts"

const SIGPIPE = 128 + 13

export const main = (): void => {
  // Whoever reads our output may leave (`| head`); that ends the program as a signal would.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(SIGPIPE)
    })
  }
  const layer = Layer.mergeAll(Command.layer, NodeServices.layer, Layer.succeed(Logger.LogToStderr, true))
  NodeRuntime.runMain(Effect.provide(Command.run(process.argv.slice(2), version()), layer), { teardown })
}

// A standard input that somebody else leaves open would keep the process alive.
const teardown: Runtime.Teardown = (exit, onExit) => {
  process.stdin.destroy()
  Runtime.defaultTeardown(exit, onExit)
}

const version = (): string => {
  const json: unknown = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"))
  return String((json as { readonly version: unknown }).version)
}
