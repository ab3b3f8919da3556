// Names of what stands in a list: as its vendor is called, numbered from the second on.

/**
 * A name for each: the one it was given, else `name`, else the first of `name-2`, `name-3` … that nobody has. Names that
 * were given are not looked at: who takes the list refuses duplicates among them.
 */
export const numbered = (
  list: ReadonlyArray<{ readonly given?: string | undefined; readonly name: string }>
): ReadonlyArray<string> => {
  const taken = new Set(list.map(({ given }) => given))
  return list.map(({ given, name }) => {
    if (given !== undefined) return given
    let free = name
    for (let n = 2; taken.has(free); n++) free = `${name}-${n}`
    taken.add(free)
    return free
  })
}
