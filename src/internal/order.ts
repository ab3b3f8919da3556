// Who is next in a waiting line with priorities: the highest class first, in a class one tenant after the other, of a
// tenant whoever came first. Who has waited for a while rises a class, so that nobody waits forever.
//
// Every step is O(1), whatever the length, for two reasons. Those of one tenant and one original class rise in the order
// in which they came, so their list never has to be sorted again. And who joins a class, by coming or by rising, joins it
// later than everybody in it, so the next one to rise is always the first of its class.
import { type Link, link, makeRing, unlink } from "./ring.ts"

/** From the least to the most urgent. */
const LEVELS = 4
const TOP = LEVELS - 1

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

  constructor(name: string | undefined) {
    this.name = name
    this.turns = Array.from({ length: LEVELS }, () => Object.assign(makeRing(), { tenant: this, waiting: 0 }))
  }
}

export class Order<T> {
  size = 0
  private readonly ageing: number
  private arrivals = 0
  private readonly tenants = new Map<string | undefined, Tenant>()
  /** By class: the places in it, in the order in which they joined it, and the turns of its tenants. */
  private readonly classes = Array.from({ length: LEVELS }, makeRing)
  private readonly turns = Array.from({ length: LEVELS }, makeRing)

  /** `ageing`: milliseconds in a class after which a place rises to the next one. */
  constructor(ageing: number) {
    this.ageing = ageing
  }

  add(value: T, level: number, tenant: string | undefined, now: number): Place<T> {
    this.age(now)
    let of = this.tenants.get(tenant)
    if (of === undefined) this.tenants.set(tenant, of = new Tenant(tenant))
    const place = new Place(value, of, level, this.arrivals++, now)
    const last = of.last[level]
    place.before = last
    if (last === undefined) of.first[level] = place
    else last.behind = place
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
      const { first } = (turn as Turn).tenant
      let next: Place<unknown> | undefined
      for (let origin = 0; origin <= level; origin++) {
        const place = first[origin]
        if (place?.level === level && (next === undefined || place.arrival < next.arrival)) next = place
      }
      return next as Place<T>
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
    place.before = place.behind = undefined
    this.leave(place)
    this.size -= 1
    tenant.size -= 1
    if (tenant.size === 0) this.tenants.delete(tenant.name)
  }

  /** When somebody rises next: the one moment at which the order changes by itself. */
  nextChange(): number {
    return (this.ripe()?.since ?? Infinity) + this.ageing
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
