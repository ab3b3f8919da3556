// A world of its own for sweeps: its scheduler runs one task per `step`, its clock moves only when no task is left, and
// it counts the fibres that live. Synchronous, so tens of thousands of runs are cheap, and every yield is a place to
// interrupt at.
import { Clock, Context, Duration, Effect, type Fiber, Metric, Random, Scheduler } from "effect"

/** Runs queued tasks one by one, whatever their priority. */
class Stepper implements Scheduler.Scheduler {
  readonly executionMode = "async"
  private readonly tasks: Array<() => void> = []

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return fiber.currentOpCount >= fiber.cache.maxOpsBeforeYield
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return {
      scheduleTask: (task: () => void) => {
        this.tasks.push(task)
      },
      flush: () => this.drain()
    }
  }

  step(): boolean {
    const task = this.tasks.shift()
    task?.()
    return task !== undefined
  }

  drain(): void {
    let steps = 0
    while (this.step()) if (++steps > 100_000) throw new Error("it never comes to rest")
  }
}

export class World {
  private readonly stepper = new Stepper()
  private readonly aside = new Stepper()
  private sleeps: Array<{ readonly at: number; readonly wake: () => void }> = []
  private now = 0
  private living = 0
  private readonly services: Context.Context<never>

  constructor(u = 0.5) {
    const sleep = (duration: Duration.Duration) =>
      Effect.callback<void>((resume) => {
        const entry = { at: this.now + Duration.toMillis(duration), wake: () => resume(Effect.void) }
        this.sleeps.push(entry)
        return Effect.sync(() => {
          this.sleeps = this.sleeps.filter((other) => other !== entry)
        })
      })
    const monotonic = () => BigInt(Math.round(this.now * 1e6))
    const living = (change: number) => () => {
      this.living += change
    }
    const clock: Clock.Clock = {
      sleep,
      currentTimeMillisUnsafe: () => this.now,
      currentTimeMillis: Effect.sync(() => this.now),
      currentTimeNanosUnsafe: monotonic,
      currentTimeNanos: Effect.sync(monotonic),
      monotonicTimeNanosUnsafe: monotonic,
      monotonicTimeNanos: Effect.sync(monotonic)
    }
    this.services = Context.make(Clock.Clock, clock).pipe(
      Context.add(Random.Random, { nextDoubleUnsafe: () => u, nextIntUnsafe: () => Math.floor(u * 2 ** 31) }),
      Context.add(Metric.FiberRuntimeMetrics, { recordFiberStart: living(1), recordFiberEnd: living(-1) })
    )
  }

  /** Something that needs no step, such as building a client. */
  run<A, E>(effect: Effect.Effect<A, E>): A {
    return Effect.runSync(Effect.provideContext(effect, this.services))
  }

  fork<A, E>(effect: Effect.Effect<A, E>, budget = 2048): Fiber.Fiber<A, E> {
    const services = Context.add(this.services, Scheduler.MaxOpsBeforeYield, budget)
    return Effect.runForkWith(services)(effect, { scheduler: this.stepper })
  }

  /** A listener whose own steps are not those of the world. */
  watch<A, E>(effect: Effect.Effect<A, E>): { readonly caughtUp: () => void; readonly stop: () => void } {
    const fiber = Effect.runFork(effect, { scheduler: this.aside })
    return { caughtUp: () => this.aside.drain(), stop: () => fiber.interruptUnsafe() }
  }

  /** One task; when there is none, the next sleeper wakes. */
  step(): boolean {
    if (this.stepper.step()) return true
    const next = this.sleeps.toSorted((a, b) => a.at - b.at)[0]
    if (next === undefined) return false
    this.now = next.at
    this.sleeps = this.sleeps.filter((other) => other !== next)
    next.wake()
    return true
  }

  /** Goes on until all have ended, then lets what needs no time run. */
  until(...fibers: ReadonlyArray<Fiber.Fiber<unknown, unknown>>): void {
    let steps = 0
    while (fibers.some((fiber) => fiber.pollUnsafe() === undefined)) {
      if (++steps > 100_000) throw new Error("it never comes to rest")
      if (!this.step()) throw new Error("stuck: nothing runs and nothing sleeps")
    }
    this.stepper.drain()
  }

  /** Runs a call to its end. */
  finish<A, E>(effect: Effect.Effect<A, E>) {
    const fiber = this.fork(effect)
    this.until(fiber)
    const exit = fiber.pollUnsafe()
    if (exit === undefined) throw new Error("unreachable")
    return exit
  }

  get held(): { readonly sleeps: number; readonly fibers: number } {
    return { sleeps: this.sleeps.length, fibers: this.living }
  }
}
