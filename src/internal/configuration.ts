// Reads options from documents and from a `ConfigProvider`: which names there are, and what a text stands for, is taken
// from the schema of the options.
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Str from "effect/String"
import { LlmConfigError } from "../LlmError.ts"
import { kindOf } from "./issue.ts"
import { FROM_TEXT, numberOf, readOption } from "./option.ts"

/** What a source holds: texts, under names. */
type Tree = string | ReadonlyArray<Tree | undefined> | { readonly [name: string]: Tree }

const Tree: Schema.Codec<Tree> = Schema.Union([
  Schema.Record(Schema.String, Schema.suspend(() => Tree)),
  Schema.Array(Schema.UndefinedOr(Schema.suspend(() => Tree))),
  Schema.String
])

// -----------------------------------------------------------------------------
// what the schema says
// -----------------------------------------------------------------------------

type Path = readonly [string, ...ReadonlyArray<string>]

/** A place for a value: an option, or the pattern that it belongs to. */
interface Place {
  readonly path: Path
  /** As environment variables call it: `RETRY_MAX_RETRIES`. */
  readonly name: string
  readonly ast: SchemaAST.AST
}

const members = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> =>
  ast._tag === "Union" ? ast.types.flatMap(members) : [ast]

const isObjects = (ast: SchemaAST.AST): ast is SchemaAST.Objects => ast._tag === "Objects"

const fromText = (ast: SchemaAST.AST): ((text: string) => unknown) | undefined =>
  ast._tag === "Declaration" ? ast.annotations?.[FROM_TEXT] as ((text: string) => unknown) | undefined : undefined

/** A store or a schedule stands in no file; where a pattern may be a value, its options do. */
const isValueOnly = (ast: SchemaAST.AST): boolean =>
  members(ast).some((member) => member._tag === "Declaration" && fromText(member) === undefined) &&
  !members(ast).some(isObjects)

const nameOf = (path: ReadonlyArray<string>): string =>
  path.map((part) => /^[A-Z\d_]*$/.test(part) ? part : Str.constantCase(part)).join("_")

const placesIn = (ast: SchemaAST.AST, above: Path | readonly []): ReadonlyArray<Place> =>
  members(ast).filter(isObjects).flatMap(({ propertySignatures }) =>
    propertySignatures.flatMap(({ name, type }): ReadonlyArray<Place> => {
      if (isValueOnly(type)) return []
      const [first, ...others] = above
      const path: Path = first === undefined ? [String(name)] : [first, ...others, String(name)]
      return [{ path, name: nameOf(path), ast: type }, ...placesIn(type, path)]
    })
  )

/** Can a text stand for it, and is it not only what it has inside that can be set? */
const takesText = ({ ast }: Place): boolean =>
  members(ast).some((member) =>
    member._tag === "Declaration" ? fromText(member) !== undefined : member._tag !== "Undefined" && !isObjects(member)
  )

/** Everything that a variable can set, as `retry.maxRetries`, and its variable, as `RETRY_MAX_RETRIES`. */
export const namesIn = (schema: Schema.Codec<unknown, unknown>): ReadonlyMap<string, string> =>
  new Map(
    placesIn(SchemaAST.toEncoded(schema.ast), []).filter(takesText).map(({ name, path }) => [path.join("."), name])
  )

/** The value that texts stand for. What stands for nothing stays, for the schema to refuse. */
const valueOf = (ast: SchemaAST.AST, tree: Tree): unknown =>
  mapped(ast, tree, (all, text) => {
    for (const member of all) {
      const found = scalarOf(member, text)
      if (found !== undefined) return found
    }
    return text
  })

/** The same value with other texts, each changed by what the schema has in its place. */
const mapped = (
  ast: SchemaAST.AST,
  value: unknown,
  each: (members: ReadonlyArray<SchemaAST.AST>, text: string) => unknown
): unknown => {
  const all = members(ast)
  if (typeof value === "string") return each(all, value)
  if (typeof value !== "object" || value === null) return value
  if (Array.isArray(value)) {
    const [element] = all.flatMap((member) => member._tag === "Arrays" ? member.rest : [])
    return element === undefined ? value : value.map((one) => mapped(element, one, each))
  }
  const types = new Map(
    all.filter(isObjects).flatMap(({ propertySignatures }) => propertySignatures.map(({ name, type }) => [name, type]))
  )
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => {
      const type = types.get(name)
      return [name, type === undefined ? inner : mapped(type, inner, each)]
    })
  )
}

const scalarOf = (ast: SchemaAST.AST, text: string): unknown => {
  switch (ast._tag) {
    case "Number":
      return numberOf(text)
    case "Boolean":
      return text === "true" ? true : text === "false" ? false : undefined
    case "Literal":
      return String(ast.literal) === text ? ast.literal : undefined
    case "Declaration":
      return fromText(ast)?.(text)
    case "Arrays":
      return jsonOf(text)
    default:
      return undefined
  }
}

const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// -----------------------------------------------------------------------------
// documents
// -----------------------------------------------------------------------------

/** Options as parsed JSON has them; throws `LlmConfigError`. */
export const fromDocument = <A, E>(schema: Schema.Codec<A, E>, json: unknown, path: string): E => {
  const options = inWords(SchemaAST.toEncoded(schema.ast), json)
  readOption(schema, options, path)
  return options as E
}

// Durations in a form that types have a word for: `20s` is 20 000 milliseconds.
const inWords = (ast: SchemaAST.AST, json: unknown): unknown =>
  mapped(ast, json, (all, text) => all.map(fromText).find((read) => read !== undefined)?.(text) ?? text)

// -----------------------------------------------------------------------------
// providers of configuration
// -----------------------------------------------------------------------------

/**
 * Options below `prefix`. `foreign` are names in it that belong to others: one that only looks like that of an option,
 * and a pattern's own unless its value is `false`.
 */
export const fromProvider = <A, E>(
  schema: Schema.Codec<A, E>,
  prefix: string,
  foreign: ReadonlyArray<string>
): Config.Config<E> => {
  const places = placesIn(SchemaAST.toEncoded(schema.ast), [])
  const named = new Map(places.map((place) => [place.name, place]))
  const groups = places.filter(({ ast }) => members(ast).some(isObjects))
  const patterns = groups.filter(({ path }) => path.length === 1)
  const textAt = (path: ReadonlyArray<string>) => Config.option(Config.schema(Schema.String, [prefix, ...path]))
  const treeAt = (path: ReadonlyArray<string>) => Config.option(Config.schema(Tree, [prefix, ...path]))

  /** What a tree holds: its texts, what is empty, and lists that are values of options. */
  const leaves = (tree: Tree, path: ReadonlyArray<string>): ReadonlyArray<Leaf> => {
    const entries = typeof tree === "string" ? [] : Object.entries(tree)
    return entries.length === 0 || (Array.isArray(tree) && named.has(nameOf(path)))
      ? [{ path, tree }]
      : entries.flatMap(([name, inner]) => inner === undefined ? [] : leaves(inner, [...path, name]))
  }

  const unknown = ({ path, tree }: Leaf, isRead: (place: Place) => boolean): Complaint | undefined => {
    const name = nameOf(path)
    if (foreign.includes(name)) return undefined
    const place = named.get(name)
    if (place !== undefined) {
      if (typeof tree !== "string" || isRead(place)) return undefined
      const rule = `written ${place.path.join(".")}, or as the variable ${variableOf(place)}`
      return { path: [prefix, ...path], rule, kind: "another spelling" }
    }
    // Of RETRY and RETRY_BUDGET, it is below the longer one.
    const [group] = groups.filter((group) => name.startsWith(`${group.name}_`))
      .toSorted((a, b) => b.name.length - a.name.length)
    if (group === undefined) return undefined
    const known = below(group)
    const isOfVariable = isVariable(path)
    return {
      path: isOfVariable ? [`${prefix}_${name}`] : [prefix, ...path],
      rule: `one of ${(isOfVariable ? known.map(variableOf) : known.map(({ path }) => path.at(-1))).join(", ")}`,
      kind: "an unknown option"
    }
  }

  const variableOf = ({ name }: { readonly name: string }): string => `${prefix}_${name}`

  /** The options of a pattern, without those inside of them. */
  const below = (group: Place): ReadonlyArray<Place> =>
    placesIn(group.ast, group.path).filter(({ path }) => path.length === group.path.length + 1)

  /** What the text of a variable can be, where that is another thing than what the option can be. */
  const inVariable = (place: Place, rule: string): string => {
    const all = members(place.ast)
    if (all.some(isObjects)) {
      const words = all.flatMap((member) =>
        member._tag === "Literal" ? [String(member.literal)] : member._tag === "Boolean" ? ["true", "false"] : []
      )
      return [...words, `left out for ${below(place).map(variableOf).join(", ")}`].join(" or ")
    }
    return all.some(({ _tag }) => _tag === "Arrays") ? `${rule}, as JSON` : rule
  }

  return Config.all({
    // Variables by their whole name: providers cut names at underscores, also where the name of an option has one.
    variables: Config.all(places.map(({ name }) => textAt([name]))),
    texts: Config.all(places.map(({ path }) => textAt(path))),
    // What else is there. A provider that combines others shows the names of the first one that has any.
    whole: treeAt([]),
    trees: Config.all(patterns.map(({ path }) => treeAt(path)))
  }).pipe(Config.mapEffect(({ texts, trees, variables, whole }) => {
    if (Option.isSome(whole) && Array.isArray(whole.value)) {
      return fail({ path: [prefix], rule: "an object of options", kind: kindOf(whole.value) })
    }
    const all = [
      ...Option.match(whole, { onNone: () => [], onSome: (tree) => leaves(tree, []) }),
      ...trees.flatMap((tree, i) => Option.isSome(tree) ? leaves(tree.value, patterns[i]!.path) : [])
    ]
    // A variable without a text is not set. All that is left of it is the names that it was cut into.
    const unset = new Set(all.flatMap(({ path, tree }) => isNothing(tree) && isVariable(path) ? [nameOf(path)] : []))
    const found = all.filter(({ path, tree }) => !isNothing(tree) || !unset.has(nameOf(path)))
    const given = new Map(places.flatMap((place, i) => {
      const text = Option.getOrUndefined(Option.orElse(variables[i]!, () => texts[i]!))
      return text === undefined ? [] : [[place, { text, isFromVariable: Option.isSome(variables[i]!) }]]
    }))
    // First the names: a misspelled one says more than what its absence leads to.
    for (const leaf of found) {
      const complaint = unknown(leaf, (place) => given.has(place))
      if (complaint !== undefined) return fail(complaint)
    }

    const options = {}
    for (const { path, tree } of found) {
      const place = named.get(nameOf(path))
      if (place !== undefined && typeof tree !== "string") assign(options, place.path, valueOf(place.ast, tree))
    }
    const variable = new Map<string, Place>()
    for (const [place, { isFromVariable, text }] of given) {
      const { ast, name, path } = place
      if (text !== "false" && foreign.includes(name)) continue
      assign(options, path, valueOf(ast, text))
      if (isFromVariable) variable.set(path.join("."), place)
    }
    try {
      return Effect.succeed(fromDocument(schema, options, ""))
    } catch (error) {
      if (!(error instanceof LlmConfigError)) throw error
      const { kind, path, rule } = error
      // Of a list in a variable it may be an entry that is wrong.
      const [option, place] = [...variable].find(([option]) => path === option || path.startsWith(`${option}[`)) ?? []
      if (option === undefined || place === undefined) return fail({ path: [prefix, path], rule, kind })
      const isWhole = path === option
      return fail({
        path: [variableOf(place) + path.slice(option.length)],
        rule: isWhole ? inVariable(place, rule) : rule,
        kind
      })
    }
  }))
}

const isVariable = (path: ReadonlyArray<string>): boolean =>
  path.length > 0 && path.every((part) => nameOf([part]) === part)

const isNothing = (tree: Tree): boolean =>
  typeof tree === "object" && !Array.isArray(tree) && Object.keys(tree).length === 0

interface Leaf {
  readonly path: ReadonlyArray<string>
  readonly tree: Tree
}

interface Complaint {
  readonly path: ReadonlyArray<string>
  readonly rule: string
  readonly kind: string
}

const fail = ({ kind, path, rule }: Complaint): Effect.Effect<never, Config.ConfigError> => {
  const message = `Invalid configuration: "${path.join(".")}" must be ${rule}, but is ${kind}.`
  return Effect.fail(
    new Config.ConfigError(new Schema.SchemaError(new SchemaIssue.InvalidValue({ message })))
  )
}

/** Puts a value at a path. What is off stays off, whatever else is said about it. */
const assign = (options: Record<string, unknown>, [name, ...below]: Path, value: unknown): void => {
  const [first, ...others] = below
  if (first === undefined) options[name] = value
  else if (options[name] !== false) {
    const inner = options[name]
    const fields: Record<string, unknown> = typeof inner === "object" && inner !== null ? { ...inner } : {}
    assign(fields, [first, ...others], value)
    options[name] = fields
  }
}
