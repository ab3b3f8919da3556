// Who is next in a waiting line with priorities: the highest class first, in a class one tenant after the other, of a
// tenant whoever came first. Who has waited for a while rises a class, so that nobody waits forever.
//
// Every step is O(1), whatever the length (only {@link Order.walk} goes along it), for two reasons. Those of one tenant and one original class rise in the order
// in which they came, so their list never has to be sorted again. And who joins a class, by coming or by rising, joins it
// later than everybody in it, so the next one to rise is always the first of its class.
import { type Link, link, makeRing, unlink } from "./ring.ts"

/** The classes, from the least to the most urgent. */
export const priorities = ["sheddable", "batch", "default", "critical"] as const

const LEVELS = priorities.length
const TOP = LEVELS - 1

/** The class of a call. */
export const levelOf = (priority: (typeof priorities)[number] = "default"): number => priorities.indexOf(priority)

/** One that waits. */
export class Place<out T> implements Link {
  readonly value: T
  readonly tenant: Tenant
  /** The class it came in. */
  readonly origin: number
  readonly arrival: number
  /** The class it is in, and since when. */
  level: number
  since: number
  /** The neighbours in its class. */
  older: Link = this
  newer: Link = this
  /** The neighbours of the same tenant and origin. */
  before: Place<unknown> | undefined
  behind: Place<unknown> | undefined

  constructor(value: T, tenant: Tenant, origin: number, arrival: number, now: number) {
    this.value = value
    this.tenant = tenant
    this.origin = origin
    this.arrival = arrival
    this.level = origin
    this.since = now
  }
}

/** A tenant's turn in one class, while it has somebody there. */
interface Turn extends Link {
  readonly tenant: Tenant
  waiting: number
}

/** Those of one tenant. */
class Tenant {
  readonly name: string | undefined
  size = 0
  /** By class. */
  readonly turns: ReadonlyArray<Turn>
  /** By original class: first and last. */
  readonly first: Array<Place<unknown> | undefined> = Array.from({ length: LEVELS })
  readonly last: Array<Place<unknown> | undefined> = Array.from({ length: LEVELS })
  /** By original class: who is next, while somebody goes through all. */
  readonly next: Array<Place<unknown> | undefined> = Array.from({ length: LEVELS })

  constructor(name: string | undefined) {
    this.name = name
    this.turns = Array.from({ length: LEVELS }, () => Object.assign(makeRing(), { tenant: this, waiting: 0 }))
  }
}

export class Order<T> {
  size = 0
  /** Tenants and original classes with somebody in them. */
  private lists = 0
  private readonly ageing: number
  private readonly onRise: ((value: T) => void) | undefined
  private arrivals = 0
  private readonly tenants = new Map<string | undefined, Tenant>()
  /** By class: the places in it, in the order in which they joined it, and the turns of its tenants. */
  private readonly classes = Array.from({ length: LEVELS }, makeRing)
  private readonly turns = Array.from({ length: LEVELS }, makeRing)

  /** `ageing`: milliseconds in a class after which a place rises to the next one. */
  constructor(ageing: number, onRise?: (value: T) => void) {
    this.ageing = ageing
    this.onRise = onRise
  }

  add(value: T, level: number, tenant: string | undefined, now: number): Place<T> {
    this.age(now)
    let of = this.tenants.get(tenant)
    if (of === undefined) this.tenants.set(tenant, of = new Tenant(tenant))
    const place = new Place(value, of, level, this.arrivals++, now)
    const last = of.last[level]
    place.before = last
    if (last === undefined) {
      of.first[level] = place
      this.lists += 1
    } else last.behind = place
    of.last[level] = place
    of.size += 1
    this.size += 1
    this.enter(place)
    return place
  }

  /** Who is next. */
  first(now: number): Place<T> | undefined {
    this.age(now)
    for (let level = TOP; level >= 0; level--) {
      const ring = this.turns[level]!
      const turn = ring.newer
      if (turn === ring) continue
      return nextIn((turn as Turn).tenant.first, level) as Place<T>
    }
    return undefined
  }

  /** It is served: the turn passes to the next tenant. */
  serve(place: Place<T>): void {
    const turn = place.tenant.turns[place.level]!
    this.remove(place)
    if (turn.waiting === 0) return
    unlink(turn)
    link(this.turns[place.level]!, turn)
  }

  /** It leaves without being served; the others keep their turns. */
  remove(place: Place<T>): void {
    const { before, behind, origin, tenant } = place
    if (before === undefined) tenant.first[origin] = behind
    else before.behind = behind
    if (behind === undefined) tenant.last[origin] = before
    else behind.before = before
    if (before === undefined && behind === undefined) this.lists -= 1
    place.before = place.behind = undefined
    this.leave(place)
    this.size -= 1
    tenant.size -= 1
    if (tenant.size === 0) this.tenants.delete(tenant.name)
  }

  /** Is everybody served in the order of arrival? */
  get isSimple(): boolean {
    return this.lists < 2
  }

  /**
   * Who would leave for one more of this class and tenant: the last of the tenant that has most in line, if it has more than
   * this one would have, and if it is not more urgent. Goes along the tenants.
   */
  last(level: number, tenant: string | undefined): Place<T> | undefined {
    let most = this.tenants.get(tenant)?.size ?? 0
    let found: Place<unknown> | undefined
    for (const other of this.tenants.values()) {
      const place = other.size > most + (found === undefined ? 1 : 0) ? lastIn(other.last, level) : undefined
      if (place === undefined) continue
      most = other.size
      found = place
    }
    return found as Place<T> | undefined
  }

  /** When somebody rises next: the one moment at which the order changes by itself. */
  nextChange(): number {
    return (this.ripe()?.since ?? Infinity) + this.ageing
  }

  /** Would it still be so with one more of this class and tenant? */
  isSimpleWith(level: number, tenant: string | undefined): boolean {
    return this.lists === 0 || (this.isSimple && this.tenants.get(tenant)?.first[level] !== undefined)
  }

  /**
   * Goes through everybody as they would be served, if nobody came, left or rose, until `visit` returns `false`. It must not
   * change meanwhile.
   */
  walk(now: number, visit: (place: Place<T>) => boolean | void): void {
    this.age(now)
    // Per tenant and original class, who is next: those behind it are in the same class, or in lower ones.
    for (const tenant of this.tenants.values()) for (let i = 0; i < LEVELS; i++) tenant.next[i] = tenant.first[i]
    for (let level = TOP; level >= 0; level--) {
      const ring = this.turns[level]!
      const round: Array<Tenant> = []
      for (let turn = ring.newer; turn !== ring; turn = turn.newer) round.push((turn as Turn).tenant)
      while (round.length > 0) {
        let again = 0
        for (const tenant of round) {
          const place = nextIn(tenant.next, level)
          if (place === undefined) continue
          tenant.next[place.origin] = place.behind
          round[again++] = tenant
          if (visit(place as Place<T>) === false) return
        }
        round.length = again
      }
    }
  }

  /** Everybody, from the highest class to the lowest, in the order in which they joined it. Copy it before a removal. */
  *[Symbol.iterator](): Iterator<Place<T>> {
    for (let level = TOP; level >= 0; level--) {
      const ring = this.classes[level]!
      for (let place = ring.newer; place !== ring; place = place.newer) yield place as Place<T>
    }
  }

  /** The place that rises next. */
  private ripe(): Place<unknown> | undefined {
    let next: Place<unknown> | undefined
    for (let level = 0; level < TOP; level++) {
      const place = this.classes[level]!.newer as Place<unknown>
      if ((place as Link) !== this.classes[level] && (next === undefined || place.since <= next.since)) next = place
    }
    return next
  }

  private age(now: number): void {
    if (this.ageing === Infinity) return
    for (let place = this.ripe(); place !== undefined; place = this.ripe()) {
      const at = place.since + this.ageing
      if (at > now) return
      this.leave(place)
      place.level += 1
      place.since = at
      this.enter(place)
      this.onRise?.(place.value as T)
    }
  }

  private enter(place: Place<unknown>): void {
    link(this.classes[place.level]!, place)
    const turn = place.tenant.turns[place.level]!
    if (turn.waiting++ === 0) link(this.turns[place.level]!, turn)
  }

  private leave(place: Place<unknown>): void {
    unlink(place)
    const turn = place.tenant.turns[place.level]!
    if (--turn.waiting === 0) unlink(turn)
  }
}

/** Of those who are first of their original class, the one of this class that came first. */
const nextIn = (first: ReadonlyArray<Place<unknown> | undefined>, level: number): Place<unknown> | undefined => {
  let next: Place<unknown> | undefined
  for (let origin = 0; origin <= level; origin++) {
    const place = first[origin]
    if (place?.level === level && (next === undefined || place.arrival < next.arrival)) next = place
  }
  return next
}

/** Of those who are last of their original class, the least urgent, and of these the one that came last. */
const lastIn = (last: ReadonlyArray<Place<unknown> | undefined>, level: number): Place<unknown> | undefined => {
  let found: Place<unknown> | undefined
  for (const place of last) {
    if (place === undefined || place.level > level) continue
    const isLater = found === undefined || place.level < found.level ||
      (place.level === found.level && place.arrival > found.arrival)
    if (isLater) found = place
  }
  return found
}
