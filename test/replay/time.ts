// Virtual time: a clock whose sleepers wake in order as fast as the machine can, and a scheduler that runs everything else
// in between. An hour with twenty thousand calls takes seconds, and the same seed gives the same hour.
import { Clock, Context, Duration, Effect, Exit, Random, Scheduler } from "effect"

interface Event {
  readonly at: number
  readonly order: number
  readonly fire: () => void
  isCancelled: boolean
}

/** A binary heap by time, then by order. */
class Agenda {
  private readonly events: Array<Event> = []

  push(event: Event): void {
    const { events } = this
    let i = events.push(event) - 1
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!isBefore(event, events[parent]!)) break
      events[i] = events[parent]!
      i = parent
    }
    events[i] = event
  }

  pop(): Event | undefined {
    const { events } = this
    const first = events[0]
    const last = events.pop()
    if (first === undefined || last === undefined || events.length === 0) return first
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= events.length) break
      if (child + 1 < events.length && isBefore(events[child + 1]!, events[child]!)) child += 1
      if (!isBefore(events[child]!, last)) break
      events[i] = events[child]!
      i = child
    }
    events[i] = last
    return first
  }
}

const isBefore = (a: Event, b: Event): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

/** A generator of Marsaglia's kind (xorshift32). */
const chance = (seed: number): (typeof Random.Random)["Service"] => {
  let state = seed | 0 || 1
  const next = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
  return { nextDoubleUnsafe: next, nextIntUnsafe: () => Math.floor(next() * 2 ** 31) }
}

export class VirtualTime {
  now = 0
  private order = 0
  private readonly agenda = new Agenda()
  private ready: Array<() => void> = []
  readonly context: Context.Context<never>

  constructor(seed: number) {
    const nanos = (): bigint => BigInt(Math.round(this.now * 1e6))
    const clock: Clock.Clock = {
      currentTimeMillisUnsafe: () => Math.floor(this.now),
      currentTimeMillis: Effect.sync(() => Math.floor(this.now)),
      currentTimeNanosUnsafe: nanos,
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanosUnsafe: nanos,
      monotonicTimeNanos: Effect.sync(nanos),
      sleep: (duration) =>
        Effect.callback<void>((resume) => {
          const event = this.at(this.now + Duration.toMillis(duration), () => resume(Effect.void))
          return Effect.sync(() => {
            event.isCancelled = true
          })
        })
    }
    const scheduler = new Scheduler.MixedScheduler("async", (task) => {
      let isCancelled = false
      this.ready.push(() => {
        if (!isCancelled) task()
      })
      return () => {
        isCancelled = true
      }
    })
    this.context = Context.make(Clock.Clock, clock).pipe(
      Context.add(Scheduler.Scheduler, scheduler),
      Context.add(Random.Random, chance(seed))
    )
  }

  /** Does something at a moment. */
  at(moment: number, fire: () => void): Event {
    const event = { at: moment, order: this.order++, fire, isCancelled: false }
    if (moment < Infinity) this.agenda.push(event)
    return event
  }

  /** Starts an effect; what it ends with is handed over. */
  start<A, E>(effect: Effect.Effect<A, E>, ended?: (exit: Exit.Exit<A, E>) => void): void {
    const fiber = Effect.runForkWith(this.context)(effect)
    if (ended !== undefined) fiber.addObserver(ended)
  }

  /** Runs until nobody waits for anything. */
  run(): void {
    for (;;) {
      while (this.ready.length > 0) {
        const tasks = this.ready
        this.ready = []
        for (const task of tasks) task()
      }
      const event = this.agenda.pop()
      if (event === undefined) return
      if (event.isCancelled) continue
      this.now = Math.max(this.now, event.at)
      event.fire()
    }
  }

  /** Runs an effect to its end, in virtual time. */
  runToEnd<A, E>(effect: Effect.Effect<A, E>): A {
    let exit: Exit.Exit<A, E> | undefined
    this.start(effect, (ended) => {
      exit = ended
    })
    this.run()
    if (exit === undefined) throw new Error("it waits for something that never comes")
    if (Exit.isFailure(exit)) throw new Error(`failed: ${String(exit.cause)}`)
    return exit.value
  }
}
