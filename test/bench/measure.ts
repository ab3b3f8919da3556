// Measures subjects side by side, each in a process of its own: what one does to the garbage collector and to compiled code
// does not strike the others, as it would not in a program that uses only one of them. Each round runs every subject once,
// so that a slow moment of the machine strikes all.
import { Effect, Random } from "effect"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

/** One line of the result: a flat table that any tool can read. */
export interface Result {
  readonly group: string
  readonly case: string
  readonly subject: string
  readonly metric: string
  readonly unit: string
  readonly median: number
  readonly min: number
  readonly max: number
  readonly runs: number
}

/** Does its work `count` times. */
export type Run = (count: number) => Promise<unknown>

/** How to make each subject of a case, ready to be measured. */
export interface Case {
  readonly subjects: Readonly<Record<string, () => Run | Promise<Run>>>
  /** Subjects that take too long to make for a quick look. */
  readonly slow?: ReadonlyArray<string>
  /** Divides the figures, where one run of the work is several calls or parts. Default 1. */
  readonly per?: number
  /** All subjects take turns in one process, and are measured by their CPU time against this one in the same round. */
  readonly floor?: string
}

/** Cases by name. */
export type Group = Readonly<Record<string, Case>>

export interface Plan {
  /** Processes of each subject, one after the other: what compilers make of a program differs by luck from one to the next. */
  readonly lives: number
  /** Rounds of a life that are counted, after `warmup` that are not. */
  readonly rounds: number
  readonly warmup: number
  /** Length of one turn of one subject in milliseconds, roughly. */
  readonly turn: number
}

export const full: Plan = { lives: 3, rounds: 5, warmup: 5, turn: 100 }
export const quick: Plan = { lives: 1, rounds: 3, warmup: 3, turn: 20 }

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export const result = (
  of: Pick<Result, "group" | "case" | "subject" | "metric" | "unit">,
  values: ReadonlyArray<number>
): Result => ({
  ...of,
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
  runs: values.length
})

/** A subject that can be asked: how long do `count` runs take, and how much do they allocate? */
export interface Worker {
  readonly name: string
  /** Milliseconds. */
  readonly time: (count: number) => Promise<number>
  /** Bytes. */
  readonly bytes: (count: number) => Promise<number>
  readonly end: () => void
}

/** A program of ours, and the lines that it prints. */
export const start = (script: string, args: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, ["--expose-gc", fileURLToPath(new URL(script, import.meta.url)), ...args], {
    stdio: ["pipe", "pipe", "inherit"]
  })
  const lines: AsyncIterator<string> = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const read = async (): Promise<string> => {
    const { done, value } = await lines.next()
    if (done === true) throw new Error(`${script} ${args.join(" ")} ended`)
    return value
  }
  return {
    read,
    ask: (question: unknown): Promise<string> => {
      child.stdin.write(`${JSON.stringify(question)}\n`)
      return read()
    },
    end: (): void => void child.stdin.end()
  }
}

const hire = (group: string, name: string, subject: string): Worker => {
  const { ask, end } = start("worker.ts", [group, name, subject])
  const number = async (question: object): Promise<number> => Number(await ask(question))
  return { name: subject, time: (count) => number({ time: count }), bytes: (count) => number({ bytes: count }), end }
}

/**
 * How often a subject does its work in one turn. Asked before each turn that is not counted: what is not compiled yet does
 * it less often, and would go on with turns that are too short.
 */
const calibrate = async (time: Worker["time"], turn: number): Promise<number> => {
  let count = 1
  let took = await time(count)
  while (took < turn / 4 && count < 1e6) {
    count *= 2
    took = await time(count)
  }
  return Math.max(1, Math.round(count * turn / took))
}

/** Nanoseconds and allocated bytes per call, for every subject of a case. */
export const compare = async (
  plan: Plan,
  group: string,
  name: string,
  { floor, per = 1, subjects }: Case,
  workerOf: (group: string, name: string, subject: string) => Worker = hire
): Promise<ReadonlyArray<Result>> => {
  const names = Object.keys(subjects)
  if (floor !== undefined) return together(plan, group, name, names, floor)
  const times = names.map((): Array<number> => [])
  const bytes = names.map((): Array<number> => [])
  for (let i = 0; i < plan.lives; i++) {
    await live(plan, names.map((subject) => workerOf(group, name, subject)), per, times, bytes)
  }
  return names.flatMap((subject, i) => {
    const of = { group, case: name, subject }
    return [
      result({ ...of, metric: "time", unit: "ns" }, times[i]!),
      result({ ...of, metric: "allocated", unit: "B" }, bytes[i]!)
    ]
  })
}

/**
 * Who comes when in a round. What one leaves behind is collected, in part, while the next one is measured, so the order is drawn
 * anew for each round; the same rounds have the same orders in each run.
 */
export const inOrder = (names: ReadonlyArray<string>, round: number): ReadonlyArray<string> =>
  Effect.runSync(Random.withSeed(Random.shuffle(names), `round ${round}`))

/** CPU time of subjects that take turns in one process, and its ratio to the floor's, round by round. */
const together = async (
  plan: Plan,
  group: string,
  name: string,
  names: ReadonlyArray<string>,
  floor: string
): Promise<ReadonlyArray<Result>> => {
  const cpu = new Map(names.map((subject) => [subject, new Array<number>()]))
  for (let life = 0; life < plan.lives; life++) {
    const { ask, end } = start("worker.ts", [group, name])
    const measure = async (subject: string, count: number): Promise<number> =>
      Number(await ask({ subject, cpu: count }))
    try {
      const counts = new Map<string, number>()
      for (let round = -plan.warmup; round < plan.rounds; round++) {
        for (const subject of inOrder(names, life * (plan.rounds + plan.warmup) + round + plan.warmup)) {
          const known = round < 0 ? undefined : counts.get(subject)
          const count = known ?? await calibrate((n) => measure(subject, n), plan.turn)
          counts.set(subject, count)
          const took = await measure(subject, count)
          if (round >= 0) cpu.get(subject)!.push(took * 1e6 / count)
        }
      }
    } finally {
      end()
    }
  }
  return against(floor, cpu, (subject) => ({ group, case: name, subject, metric: "cpu", unit: "ns" }))
}

/** A metric of each subject, and its ratio to the floor's in the same round. */
export const against = (
  floor: string,
  values: ReadonlyMap<string, ReadonlyArray<number>>,
  of: (subject: string) => Pick<Result, "group" | "case" | "subject" | "metric" | "unit">
): ReadonlyArray<Result> =>
  [...values].flatMap(([subject, own]) => [
    result(of(subject), own),
    result({ ...of(subject), metric: "ratio", unit: "×" }, own.map((value, i) => value / values.get(floor)![i]!))
  ])

/** One life of all subjects of a case, by turns. */
const live = async (
  plan: Plan,
  workers: ReadonlyArray<Worker>,
  per: number,
  times: ReadonlyArray<Array<number>>,
  bytes: ReadonlyArray<Array<number>>
): Promise<void> => {
  try {
    const counts: Array<number> = []
    for (let round = -plan.warmup; round < plan.rounds; round++) {
      for (const [i, worker] of workers.entries()) {
        const known = round < 0 ? undefined : counts[i]
        const count = counts[i] = known ?? await calibrate(worker.time, plan.turn)
        const took = await worker.time(count)
        if (round >= 0) times[i]!.push(took * 1e6 / count / per)
      }
    }
    for (const [i, worker] of workers.entries()) {
      // Few enough calls that no collection comes between the two readings; one that does gives a smaller figure.
      const count = Math.max(1, Math.min(counts[i]!, 200))
      for (let k = 0; k < Math.min(plan.rounds, 5); k++) bytes[i]!.push(await worker.bytes(count) / count / per)
    }
  } finally {
    for (const { end } of workers) end()
  }
}
