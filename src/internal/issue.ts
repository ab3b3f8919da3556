// Turns a value, or a schema's complaint about it, into words that never contain the value itself.
import * as Redacted from "effect/Redacted"
import type * as SchemaAST from "effect/SchemaAST"
import type * as SchemaIssue from "effect/SchemaIssue"

export interface Complaint {
  readonly path: string
  readonly rule: string
  readonly kind: string
}

/** What a value is, without saying it. */
export const kindOf = (value: unknown): string => {
  if (value === undefined) return "missing"
  if (value === null) return "null"
  if (Array.isArray(value)) return value.length === 0 ? "an empty array" : "an array"
  switch (typeof value) {
    case "string":
      return value.length === 0 ? "an empty text" : "a text"
    case "number":
      if (Number.isNaN(value)) return "not a number"
      if (value < 0) return "a negative number"
      if (value === 0) return "zero"
      if (!Number.isFinite(value)) return "infinite"
      return Number.isInteger(value) ? "a whole number" : "a fraction"
    case "boolean":
      return "a boolean"
    case "function":
      return "a function"
    default:
      return "an object"
  }
}

// Names come from outside, too: what does not look like the name of a field could be anything.
const nameOf = (key: string | symbol): string =>
  typeof key === "string" && /^[A-Za-z_$][\w$-]{0,30}$/.test(key) ? key : "?"

const MAX_STEPS = 16

/** Renders `["targets", 0, "id"]` as `targets[0].id`, of a long path the start. */
export const renderPath = (path: ReadonlyArray<PropertyKey>): string => {
  const rendered = path.slice(0, MAX_STEPS).reduce<string>(
    (out, key) => typeof key === "number" ? `${out}[${key}]` : out === "" ? nameOf(key) : `${out}.${nameOf(key)}`,
    ""
  )
  return path.length > MAX_STEPS ? `${rendered}.…` : rendered
}

/** The value at a path, if there is one. */
export const at = (input: unknown, path: ReadonlyArray<PropertyKey>): unknown =>
  path.reduce<unknown>(
    (value, key) =>
      typeof value === "object" && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined,
    input
  )

interface Leaf {
  readonly path: ReadonlyArray<PropertyKey>
  readonly rule: string
  readonly kind?: string
  /** The rule is about what the value holds, which for a secret is its text. */
  readonly inside?: boolean
}

const expected = (annotations: unknown): string | undefined => {
  const text = (annotations as { readonly expected?: unknown } | undefined)?.expected
  if (typeof text !== "string") return undefined
  return text === "a valid Duration string" ? "a duration such as \"2 seconds\"" : text
}

const typeRule = (ast: SchemaAST.AST): string => {
  const said = expected(ast.annotations)
  if (said !== undefined) return said === "Duration" ? "a duration" : said
  switch (ast._tag) {
    case "String":
      return "a text"
    case "Number":
      return "a number"
    case "Boolean":
      return "a boolean"
    case "Arrays":
      return "an array"
    case "Objects":
      return "an object"
    case "Literal":
      return JSON.stringify(ast.literal)
    case "Union":
      return [...new Set(ast.types.filter((type) => type._tag !== "Undefined").map(typeRule))].join(" or ")
    default:
      return "of another kind"
  }
}

const namesOf = (ast: SchemaAST.AST): ReadonlyArray<string> =>
  ast._tag === "Objects" ? ast.propertySignatures.map(({ name }) => String(name)) : []

const leaves = (issue: SchemaIssue.Issue, path: ReadonlyArray<PropertyKey>): ReadonlyArray<Leaf> => {
  switch (issue._tag) {
    case "Filter":
      // A rule between several fields says which one breaks it.
      return issue.issue._tag === "Pointer"
        ? leaves(issue.issue, path)
        : [{ path, rule: expected(issue.filter.annotations) ?? "valid", inside: true }]
    case "Encoding":
      return leaves(issue.issue, path)
    case "Pointer":
      return leaves(issue.issue, [...path, ...issue.path])
    case "Composite":
      return issue.issues.flatMap((inner) => leaves(inner, path))
    case "AnyOf":
      // Where each member refuses the kind of value, one of them would say too little.
      return isOfKind(issue)
        ? [{ path, rule: typeRule(issue.ast) }]
        : issue.issues.flatMap((inner) => leaves(inner, path))
    case "InvalidType":
      return [{ path, rule: typeRule(issue.ast) }]
    case "MissingKey":
      return [{ path, rule: expected(issue.annotations) ?? "given" }]
    case "UnexpectedKey":
      return [{ path, rule: `one of ${namesOf(issue.ast).join(", ")}`, kind: "an unknown option" }]
    case "InvalidValue":
      return [{ path, rule: issue.annotations?.message ?? expected(issue.annotations) ?? "valid" }]
    default:
      return [{ path, rule: "valid" }]
  }
}

const isOfKind = (issue: SchemaIssue.Issue): boolean =>
  issue._tag === "InvalidType" || (issue._tag === "AnyOf" && issue.issues.every(isOfKind))

/** The first and deepest complaint of a schema about `input`. */
export const firstIssue = (issue: SchemaIssue.Issue, input: unknown): Complaint => {
  const found = leaves(issue, [])
  const deepest = found.reduce<Leaf | undefined>(
    (best, leaf) => best === undefined || leaf.path.length > best.path.length ? leaf : best,
    undefined
  ) ?? { path: [], rule: "valid" }
  const value = at(input, deepest.path)
  const judged = deepest.inside === true && Redacted.isRedacted(value) ? Redacted.value(value) : value
  return { path: renderPath(deepest.path), rule: deepest.rule, kind: deepest.kind ?? kindOf(judged) }
}
