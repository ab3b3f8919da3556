// Everything that is measured by time per call. What a subject imports, it imports when it is made.
import type { Group } from "../measure.ts"
import { growth } from "./growth.ts"
import { inProcess } from "./inProcess.ts"
import { requests } from "./requests.ts"
import { streaming } from "./streaming.ts"

export const groups: Readonly<Record<string, Group>> = {
  requests,
  "in-process": inProcess,
  streaming,
  growth
}
