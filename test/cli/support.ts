// Runs a command in this process, with streams and an environment of our own.
import { NodeServices } from "@effect/platform-node"
import { ConfigProvider, Effect, type Exit, Layer, type PlatformError, Sink, Stdio, Stream, Terminal } from "effect"
import * as Command from "effect-resilient-llm/cli/command"

export interface Surroundings {
  /** Output goes to a terminal, which is `columns` (80) wide. */
  readonly terminal?: boolean
  readonly columns?: number
  /** What is piped in: a text, or bytes as they come. Default: an empty file. */
  readonly stdin?: string | Stream.Stream<Uint8Array, PlatformError.PlatformError> | undefined
  /** Standard input is a terminal. */
  readonly typing?: boolean
}

export const stdio = (options: Surroundings = {}) => {
  const written = { out: "", err: "" }
  const sink = (name: keyof typeof written) =>
    Sink.forEach((chunk: string | Uint8Array) =>
      Effect.sync(() => {
        written[name] += String(chunk)
      })
    )
  const terminal = Effect.succeed(options.terminal === true)
  const layer = Layer.mergeAll(
    NodeServices.layer,
    Stdio.layerTest({
      stdin: typeof options.stdin === "object"
        ? options.stdin
        : Stream.encodeText(Stream.fromArray(options.stdin === undefined ? [] : [options.stdin])),
      stdinIsTerminal: Effect.succeed(options.typing === true),
      stdoutIsTerminal: terminal,
      stderrIsTerminal: terminal,
      stdout: () => sink("out"),
      stderr: () => sink("err")
    }),
    Layer.succeed(
      Terminal.Terminal,
      Terminal.make({
        columns: Effect.succeed(options.columns ?? 80),
        rows: Effect.succeed(24),
        size: Effect.die("unused"),
        readInput: Effect.die("unused"),
        readLine: Effect.die("unused"),
        display: () => Effect.die("unused")
      })
    )
  )
  return { written, layer }
}

export interface Ran {
  readonly exit: Exit.Exit<unknown, unknown>
  readonly out: string
  readonly err: string
}

export const run = (
  args: ReadonlyArray<string>,
  options: Surroundings & { readonly env?: Record<string, string> } = {}
): Effect.Effect<Ran> =>
  Effect.suspend(() => {
    const { layer, written } = stdio(options)
    return Command.run(args, "1.2.3").pipe(
      Effect.provide(Layer.mergeAll(layer, Command.layer, ConfigProvider.layer(env(options.env)))),
      Effect.exit,
      Effect.map((exit) => ({ exit, out: written.out, err: written.err }))
    )
  })

export const env = (variables: Record<string, string> = {}) => ConfigProvider.fromEnv({ env: variables })

/** Without its colours; fails on any other control sequence but the one that clears a line. */
export const withoutColours = (text: string): string => {
  // oxlint-disable-next-line no-control-regex
  const plain = text.replace(/\u001b\[\d+m/g, "").replace(/\r\u001b\[K/g, "⌫")
  if (plain.includes("\u001b")) throw new Error(`an unknown escape in ${JSON.stringify(plain)}`)
  return plain
}
