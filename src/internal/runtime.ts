// The process around us, where there is one: browsers and workers have none, and Deno may forbid to look.

interface Runtime {
  readonly process?: {
    readonly versions?: { readonly node?: string; readonly bun?: string }
    readonly env?: Readonly<Record<string, string | undefined>>
    readonly execArgv?: ReadonlyArray<string>
  }
  readonly Deno?: unknown
}

export const runtime = globalThis as Runtime

/** A value of the environment; `undefined` where there is none, or none may be read. */
export const variable = (name: string): string | undefined => {
  try {
    const value = runtime.process?.env?.[name]
    return value === undefined || value.trim() === "" ? undefined : value
  } catch {
    return undefined
  }
}
