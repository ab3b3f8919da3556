// The two output streams, as they really are: terminal or pipe, with colours or without.
import * as TerminalCapabilities from "effect/cli/TerminalCapabilities"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as Terminal from "effect/Terminal"
import { colours, type Paint, plain } from "./render.ts"

export interface Device {
  readonly write: (text: string) => Effect.Effect<void>
  readonly isTerminal: boolean
  /** A line may be redrawn. */
  readonly canAnimate: boolean
  readonly paint: Paint
  readonly columns: number
}

export interface Devices {
  readonly out: Device
  readonly err: Device
}

const COLUMNS = 80

export const devices: Effect.Effect<Devices, never, Stdio.Stdio | Terminal.Terminal> = Effect.gen(function*() {
  const stdio = yield* Stdio.Stdio
  const columns = (yield* (yield* Terminal.Terminal).columns) || COLUMNS

  // The rules for NO_COLOR, FORCE_COLOR and TERM are Effect's; it knows them for standard output only.
  const device = (isTerminal: boolean, sink: ReturnType<Stdio.Stdio["stdout"]>): Effect.Effect<Device> =>
    Effect.map(
      Effect.provide(
        TerminalCapabilities.TerminalCapabilities,
        Layer.provide(
          TerminalCapabilities.layer,
          Layer.succeed(Stdio.Stdio, { ...stdio, stdoutIsTerminal: Effect.succeed(isTerminal) })
        )
      ),
      ({ canAnimate, canColor }) => ({
        write: (text) => Effect.orDie(Stream.run(Stream.succeed(text), sink)),
        isTerminal,
        canAnimate,
        paint: canColor ? colours : plain,
        columns
      })
    )

  return {
    out: yield* device(yield* stdio.stdoutIsTerminal, stdio.stdout()),
    err: yield* device(yield* stdio.stderrIsTerminal, stdio.stderr())
  }
})

// oxlint-disable-next-line no-control-regex -- exactly these must not reach a terminal
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g

/** The text without the characters by which a stranger could steer the terminal. */
export const printable = (text: string): string => text.replace(controls, "")
