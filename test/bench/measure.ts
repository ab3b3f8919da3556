// Measures subjects side by side: each round runs every subject once, so that a slow moment of the machine strikes all.

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

/** Something that can do its work `count` times. */
export interface Subject {
  readonly name: string
  readonly run: (count: number) => Promise<unknown>
  /** Divides the figures, where one run of the work is several calls or parts. Default 1. */
  readonly per?: number
}

export interface Plan {
  /** Rounds that are counted, after `warmup` that are not. */
  readonly rounds: number
  readonly warmup: number
  /** Length of one turn of one subject, roughly. */
  readonly turn: number
}

export const full: Plan = { rounds: 15, warmup: 3, turn: 150 }
export const quick: Plan = { rounds: 3, warmup: 3, turn: 50 }

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

const timed = async (subject: Subject, count: number): Promise<number> => {
  const start = performance.now()
  await subject.run(count)
  return performance.now() - start
}

const collect = globalThis.gc ?? (() => {})

/** Nanoseconds and allocated bytes per call, for every subject of a case. */
export const compare = async (
  plan: Plan,
  group: string,
  name: string,
  subjects: ReadonlyArray<Subject>
): Promise<ReadonlyArray<Result>> => {
  const counts: Array<number> = []
  for (const subject of subjects) {
    let count = 1
    let took = await timed(subject, count)
    while (took < plan.turn / 4 && count < 1e6) {
      count *= 2
      took = await timed(subject, count)
    }
    counts.push(Math.max(1, Math.round(count * plan.turn / took)))
  }
  const times = subjects.map((): Array<number> => [])
  for (let round = 0; round < plan.rounds + plan.warmup; round++) {
    for (const [i, subject] of subjects.entries()) {
      const took = await timed(subject, counts[i]!)
      if (round >= plan.warmup) times[i]!.push(took * 1e6 / counts[i]! / (subject.per ?? 1))
    }
  }
  const results: Array<Result> = []
  for (const [i, subject] of subjects.entries()) {
    const of = { group, case: name, subject: subject.name }
    results.push(result({ ...of, metric: "time", unit: "ns" }, times[i]!))
    const bytes: Array<number> = []
    // Few enough calls that no collection comes between the two readings; one that does gives a smaller figure.
    const count = Math.max(1, Math.min(counts[i]!, 200))
    for (let k = 0; k < Math.min(plan.rounds, 5); k++) {
      collect()
      const before = process.memoryUsage().heapUsed
      await subject.run(count)
      const after = process.memoryUsage().heapUsed
      bytes.push(Math.max(0, after - before) / count / (subject.per ?? 1))
    }
    results.push(result({ ...of, metric: "allocated", unit: "B" }, bytes))
  }
  return results
}
