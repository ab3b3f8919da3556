// Checks a value and copies it in one go, as a schema that changes nothing would, for a fraction of what decoding costs.
import type * as SchemaAST from "effect/SchemaAST"
import { put } from "./json.ts"

/** The value is not as the schema wants it, or so unusual that the schema itself has to say. */
export const NO: unique symbol = Symbol("NO")

type Read = (value: unknown) => unknown

/**
 * The reader of a schema, or `undefined` where it has parts that this does not know. A reader refuses what it is not sure
 * of, unknown fields among it, so whoever uses it asks the schema then.
 */
export const readerOf = (ast: SchemaAST.AST): Read | undefined => {
  const read = ast.encoding === undefined ? bare(ast) : undefined
  const checks = ast.checks?.map((check) => check._tag === "Filter" ? check : undefined)
  if (read === undefined || checks === undefined) return read
  if (checks.includes(undefined)) return undefined
  return (value) => {
    const known = read(value)
    if (known === NO) return NO
    for (const check of checks) if (check!.run(known, ast, {}) !== undefined) return NO
    return known
  }
}

const bare = (ast: SchemaAST.AST): Read | undefined => {
  switch (ast._tag) {
    case "String":
      return (value) => typeof value === "string" ? value : NO
    case "Number":
      return (value) => typeof value === "number" ? value : NO
    case "Boolean":
      return (value) => typeof value === "boolean" ? value : NO
    case "Undefined":
      return (value) => value === undefined ? value : NO
    case "Unknown":
      return (value) => value
    case "Literal":
      return (value) => value === ast.literal ? value : NO
    case "Union":
      return union(ast)
    case "Arrays":
      return list(ast)
    case "Objects":
      return ast.indexSignatures.length === 0 ? struct(ast) : record(ast)
    default:
      return undefined
  }
}

const all = (asts: ReadonlyArray<SchemaAST.AST>): ReadonlyArray<Read> | undefined => {
  const reads = asts.map(readerOf)
  return reads.every((read) => read !== undefined) ? reads : undefined
}

const union = (ast: SchemaAST.Union): Read | undefined => {
  const reads = ast.options?.mode === "oneOf" ? undefined : all(ast.types)
  return reads && ((value) => {
    for (const read of reads) {
      const known = read(value)
      if (known !== NO) return known
    }
    return NO
  })
}

const list = (ast: SchemaAST.Arrays): Read | undefined => {
  const read = ast.elements.length === 0 && ast.rest.length === 1 ? readerOf(ast.rest[0]!) : undefined
  return read && ((value) => {
    if (!Array.isArray(value)) return NO
    const out: Array<unknown> = []
    for (const item of value) {
      const known = read(item)
      if (known === NO) return NO
      out.push(known)
    }
    return out
  })
}

/** Neither an array nor an object of a class, which could do anything when it is read. */
export const isPlain = (value: unknown): value is Readonly<Record<string, unknown>> => {
  if (typeof value !== "object" || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const struct = (ast: SchemaAST.Objects): Read | undefined => {
  const reads = new Map<PropertyKey, Read>()
  const required: Array<PropertyKey> = []
  for (const { name, type } of ast.propertySignatures) {
    const read = readerOf(type)
    if (read === undefined) return undefined
    reads.set(name, read)
    if (type.context?.isOptional !== true) required.push(name)
  }
  return (value) => {
    if (!isPlain(value)) return NO
    const out: Record<PropertyKey, unknown> = {}
    for (const key of Reflect.ownKeys(value)) {
      const known = reads.get(key)?.(value[key as string])
      if (known === NO || known === undefined && !reads.has(key)) return NO
      out[key] = known
    }
    for (const key of required) if (!Object.hasOwn(value, key)) return NO
    return out
  }
}

const record = (ast: SchemaAST.Objects): Read | undefined => {
  const [signature, ...others] = ast.indexSignatures
  if (others.length > 0 || ast.propertySignatures.length > 0 || signature?.parameter._tag !== "String") return undefined
  // What may be anything is looked at by whoever knows what it is for.
  if (signature.type._tag === "Unknown") return (value) => isPlain(value) ? value : NO
  const read = readerOf(signature.type)
  return read && ((value) => {
    if (!isPlain(value)) return NO
    const out: Record<string, unknown> = {}
    for (const key of Object.keys(value)) {
      const known = read(value[key])
      if (known === NO) return NO
      put(out, key, known)
    }
    return out
  })
}
