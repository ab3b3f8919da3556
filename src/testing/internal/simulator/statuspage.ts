// What a status page told, as phases of a vendor.
import * as Schema from "effect/Schema"
import { readOptions } from "../../../internal/option.ts"
import { LlmConfigError } from "../../../LlmError.ts"
import type { IncidentOptions, Phase } from "../../Simulator.ts"

const moment = Schema.String.check(
  Schema.makeFilter((text: string) => !Number.isNaN(Date.parse(text)), { expected: "a date" })
)
const givenMoment = Schema.optional(Schema.NullOr(moment))

const Incident = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  impact: Schema.String,
  created_at: moment,
  started_at: givenMoment,
  resolved_at: givenMoment
})

const Page = Schema.Struct({ incidents: Schema.Array(Schema.Unknown).annotate({ expected: "a list of incidents" }) })

const MAX_INCIDENTS = 10_000
const BEFORE = 10 * 60_000

export const incidentsToPhases = (document: unknown, { only, start }: IncidentOptions): ReadonlyArray<Phase> => {
  const all = fieldsOf(Page, document, "").incidents
  if (all.length > MAX_INCIDENTS) {
    throw new LlmConfigError({ path: "incidents", rule: `at most ${MAX_INCIDENTS}`, kind: "more than that" })
  }
  if (start !== undefined && Number.isNaN(Date.parse(start))) {
    throw new LlmConfigError({ path: "start", rule: "a date", kind: "another text" })
  }
  const incidents = all
    .map((incident, i) => fieldsOf(Incident, incident, `incidents[${i}]`))
    .filter(({ id, name }) => only === undefined || id === only || name.includes(only))
    .map(({ created_at, impact, resolved_at, started_at }) => ({
      begun: Date.parse(started_at ?? created_at),
      impact,
      resolved_at
    }))
    .toSorted((a, b) => a.begun - b.begun)
  if (incidents.length === 0) return []
  const origin = start === undefined ? incidents[0]!.begun - BEFORE : Date.parse(start)
  return incidents.flatMap(({ begun, impact, resolved_at }): ReadonlyArray<Phase> => {
    const to = resolved_at === null || resolved_at === undefined ? Infinity : Date.parse(resolved_at) - origin
    const from = Math.max(begun - origin, 0)
    if (to <= from) return []
    const when = { from, ...(to === Infinity ? undefined : { to }) }
    switch (impact) {
      case "minor":
        return [{ kind: "slow", factor: 2, ...when }, { kind: "overload", share: 0.05, ...when }]
      case "major":
        return [{ kind: "overload", share: 0.5, ...when }]
      case "critical":
        return [{ kind: "overload", share: 0.95, ...when }]
      default:
        return []
    }
  })
}

/** Those fields that are known here: a page says much more. */
const fieldsOf = <F extends Schema.Struct.Fields>(
  schema: Schema.Struct<F> & Schema.Codec<unknown, unknown>,
  value: unknown,
  path: string
): Schema.Struct<F>["Type"] => {
  const known = typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([name]) => Object.hasOwn(schema.fields, name)))
    : value
  return readOptions(schema, known, path)
}
