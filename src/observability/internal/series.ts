// The numbers behind the metrics. They are kept here and read by Effect's registry when somebody looks, so that an
// update is an addition and not a search.
import type * as Context from "effect/Context"
import * as Metric from "effect/Metric"
import type { Definition } from "./table.ts"

const ignored = (): void => {}

const attributesOf = ({ labels, unit }: Definition, values: ReadonlyArray<string>): Record<string, string> => {
  const attributes: Record<string, string> = {}
  // A label without a value is left out, as the conventions want it.
  for (const [i, label] of labels.entries()) if (values[i] !== "") attributes[label] = values[i]!
  if (unit !== "1") attributes["unit"] = unit
  return attributes
}

/** One number, or one distribution, for one set of label values. */
export class Series {
  count = 0
  private sum = 0
  private min = Infinity
  private max = -Infinity
  private readonly boundaries: ReadonlyArray<number>
  private readonly buckets: Array<number>

  constructor(boundaries: ReadonlyArray<number> = []) {
    this.boundaries = boundaries
    this.buckets = boundaries.map(() => 0)
  }

  observe(value: number): void {
    this.count += 1
    this.sum += value
    if (value < this.min) this.min = value
    if (value > this.max) this.max = value
    let low = 0
    let high = this.boundaries.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (value <= this.boundaries[middle]!) high = middle
      else low = middle + 1
    }
    if (low < this.buckets.length) this.buckets[low]! += 1
  }

  distribution(): Metric.HistogramState {
    let below = 0
    const buckets = this.boundaries.map((boundary, i): [number, number] => [boundary, below += this.buckets[i]!])
    return { buckets, count: this.count, sum: this.sum, min: this.min, max: this.max }
  }
}

type Level = Map<string, Level | Series>

/** All series of one definition: a map for each label, because to look up a joined text costs more than its parts. */
export class Family {
  private readonly series: Level = new Map()
  private readonly definition: Definition
  private readonly context: Context.Context<never>

  constructor(definition: Definition, context: Context.Context<never>) {
    this.definition = definition
    this.context = context
  }

  /** The series of these values, in the order of the definition's labels; one empty value where it has none. */
  of(a: string, b?: string, c?: string, d?: string, e?: string): Series {
    let found = this.series.get(a)
    if (b !== undefined) found = below(found, b)
    if (c !== undefined) found = below(found, c)
    if (d !== undefined) found = below(found, d)
    if (e !== undefined) found = below(found, e)
    return found instanceof Series ? found : this.add([a, b, c, d, e].filter((value) => value !== undefined))
  }

  private add(values: ReadonlyArray<string>): Series {
    const { boundaries, description, kind, name } = this.definition
    const series = new Series(boundaries)
    let level = this.series
    for (const value of values.slice(0, -1)) {
      const next = level.get(value) ?? new Map()
      level.set(value, next)
      level = next as Level
    }
    level.set(values.at(-1) ?? "", series)
    const attributes = attributesOf(this.definition, values)
    if (kind === "counter") {
      Metric.registerUnsafe(Metric.counter(name, { description, attributes, incremental: true }), this.context, {
        get: () => ({ count: series.count, incremental: true }),
        update: ignored,
        modify: ignored
      })
    } else {
      const histogram = Metric.histogram(name, { description, attributes, boundaries: boundaries ?? [] })
      const get = () => series.distribution()
      Metric.registerUnsafe(histogram, this.context, { get, update: ignored, modify: ignored })
    }
    return series
  }
}

const below = (level: Level | Series | undefined, value: string): Level | Series | undefined =>
  level instanceof Map ? level.get(value) : undefined

/** A gauge that is read when somebody looks. */
export const gauge = (
  definition: Definition,
  context: Context.Context<never>,
  values: ReadonlyArray<string>,
  read: () => number
): Metric.Registration => {
  const { description, name } = definition
  const metric = Metric.gauge(name, { description, attributes: attributesOf(definition, values) })
  return Metric.registerUnsafe(metric, context, { get: () => ({ value: read() }), update: ignored, modify: ignored })
}
