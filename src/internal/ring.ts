// Things in the order of their arrival, which can leave from anywhere: a ring of links, whose first link is the ring itself.
//
// Instead of a `Map` or `Set`, because one whose oldest entry is deleted again and again searches ever longer for the next
// oldest (5 µs more per `set` with 10 000 entries), and one that is filled and emptied all the time is copied all the time.

export interface Link {
  older: Link
  newer: Link
}

export const makeRing = (): Link => {
  const ring = {} as Link
  ring.older = ring.newer = ring
  return ring
}

/** Joins as the newest. */
export const link = (ring: Link, link: Link): void => {
  link.older = ring.older
  link.newer = ring
  link.older.newer = ring.older = link
}

/**
 * Leaves, and lets go of its neighbours: a dead link that still points at them would keep them, and through them all that
 * come after, from every quick collection of garbage.
 */
export const unlink = (link: Link): void => {
  link.older.newer = link.newer
  link.newer.older = link.older
  link.older = link.newer = link
}
