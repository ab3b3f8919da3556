// Everything that is measured by time per call. What a subject imports, it imports when it is made.
import type { Group } from "../measure.ts"
import { growth } from "./growth.ts"
import { inProcess } from "./inProcess.ts"
import { streaming } from "./streaming.ts"

export const groups: Readonly<Record<string, Group>> = { "in-process": inProcess, streaming, growth }
