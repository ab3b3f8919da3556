// Charts as SVG, made of text: lines, areas, and rows of bars, all over the same time.

/** Escapes what a name may hold. */
export const text = (value: string): string =>
  value.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`).replace(/\p{Cc}/gu, " ")

const WIDTH = 920
const LEFT = 64
const RIGHT = 12
const TOP = 8
const BOTTOM = 24
const PLOT = WIDTH - LEFT - RIGHT

/** The time that all charts of a page have. */
export interface Time {
  /** Milliseconds of an interval, and how many there are. */
  readonly interval: number
  readonly intervals: number
}

export interface Line {
  readonly name: string
  /** The number of a colour. */
  readonly colour: number
  readonly values: ReadonlyArray<number | null>
}

export interface Bar {
  readonly from: number
  readonly to: number
  readonly kind: string
}

const round = (n: number): string => String(Math.round(n * 10) / 10)

const xOf = ({ interval, intervals }: Time, millis: number): number => LEFT + PLOT * millis / (interval * intervals)

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400]

/** Marks below a chart: minutes, or what suits. */
const axis = (time: Time, height: number): string => {
  const seconds = time.interval * time.intervals / 1000
  const step = STEPS.find((one) => seconds / one <= 12) ?? Math.ceil(seconds / 12)
  const unit = step < 60 ? "s" : step < 3600 ? "min" : "h"
  const size = step < 60 ? 1 : step < 3600 ? 60 : 3600
  const marks = Array.from({ length: Math.floor(seconds / step) + 1 }, (_, i) => i * step)
  return marks.map((mark) => {
    const x = round(xOf(time, mark * 1000))
    return `<line class="grid" x1="${x}" x2="${x}" y1="${TOP}" y2="${height - BOTTOM}"/>` +
      `<text x="${x}" y="${height - 8}" text-anchor="middle">${mark / size}${mark === 0 ? ` ${unit}` : ""}</text>`
  }).join("")
}

interface Scale {
  readonly ticks: ReadonlyArray<number>
  /** From 0 at the bottom to 1 at the top. */
  readonly place: (value: number) => number
}

const linear = (max: number, min = 0): Scale => {
  const rough = (max - min) / 4
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((n) => n * power).find((one) => one >= rough * 0.999)!
  const top = Math.ceil((max - min) / step - 1e-9) * step + min
  const ticks = Array.from({ length: Math.round((top - min) / step) + 1 }, (_, i) => min + i * step)
  return { ticks, place: (value) => (value - min) / (top - min) }
}

/** By decades, from a tenth of a second on: what is faster is a refusal, and at the bottom. */
const logarithmic = (least: number, most: number): Scale => {
  const from = Math.floor(Math.log10(Math.max(least, 100)))
  const to = Math.max(Math.ceil(Math.log10(Math.max(most, 1)) - 1e-9), from + 1)
  const ticks = Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i))
  return { ticks, place: (value) => (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from) }
}

const numbers = (lines: ReadonlyArray<Line>): ReadonlyArray<number> =>
  lines.flatMap(({ values }) => values.filter((value) => value !== null))

const svg = (label: string, height: number, inside: string): string =>
  `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${text(label)}">${inside}</svg>`

const levels = (scale: Scale, height: number, show: (value: number) => string): string =>
  scale.ticks.map((tick) => {
    const y = round(height - BOTTOM - scale.place(tick) * (height - TOP - BOTTOM))
    return `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y}" y2="${y}"/>` +
      `<text x="${LEFT - 6}" y="${y}" dy="0.32em" text-anchor="end">${show(tick)}</text>`
  }).join("")

export interface LineOptions {
  readonly label: string
  readonly time: Time
  readonly lines: ReadonlyArray<Line>
  readonly show: (value: number) => string
  readonly isLogarithmic?: boolean | undefined
  readonly max?: number | undefined
}

const HEIGHT = 220

export const lines = ({ isLogarithmic, label, lines, max, show, time }: LineOptions): string => {
  const all = numbers(lines)
  const most = max ?? all.reduce((a, b) => Math.max(a, b), 1)
  const scale = isLogarithmic === true ? logarithmic(all.reduce((a, b) => Math.min(a, b), most), most) : linear(most)
  const drawn = lines.map(({ colour, name, values }) => {
    let isDown = false
    const path = values.map((value, i) => {
      if (value === null) {
        isDown = false
        return ""
      }
      const command = isDown ? "L" : "M"
      isDown = true
      const y = HEIGHT - BOTTOM - scale.place(value) * (HEIGHT - TOP - BOTTOM)
      return `${command}${round(xOf(time, (i + 0.5) * time.interval))} ${round(y)}`
    }).join("")
    return `<path class="line c${colour}" d="${path}"><title>${text(name)}</title></path>`
  })
  return svg(label, HEIGHT, levels(scale, HEIGHT, show) + axis(time, HEIGHT) + drawn.join(""))
}

/** Areas on top of each other. */
export const areas = ({ label, lines, max, show, time }: Omit<LineOptions, "isLogarithmic">): string => {
  const height = 150
  const floor = Array.from({ length: time.intervals }, () => 0)
  const sums = lines.map(({ values }) => values.map((value, i) => floor[i] = floor[i]! + (value ?? 0)))
  const scale = linear(max ?? Math.max(1, ...floor))
  const at = (i: number, value: number): string =>
    `${round(xOf(time, i * time.interval))} ${round(height - BOTTOM - scale.place(value) * (height - TOP - BOTTOM))}`
  const drawn = lines.map(({ colour, name }, k) => {
    const upper = sums[k]!.flatMap((value, i) => [at(i, value), at(i + 1, value)])
    const below = k === 0 ? sums[k]!.map(() => 0) : sums[k - 1]!
    const lower = below.flatMap((value, i) => [at(i, value), at(i + 1, value)]).toReversed()
    return `<path class="area c${colour}" d="M${[...upper, ...lower].join("L")}Z"><title>${text(name)}</title></path>`
  })
  return svg(label, height, levels(scale, height, show) + axis(time, height) + drawn.join(""))
}

/** A row for each name, with bars from when to when. */
export const rows = (
  { bars, label, time }: {
    readonly label: string
    readonly time: Time
    readonly bars: ReadonlyArray<readonly [name: string, bars: ReadonlyArray<Bar>]>
  }
): string => {
  const row = 22
  const end = time.interval * time.intervals
  let bottom = TOP
  const drawn = bars.map(([name, own]) => {
    const top = bottom
    const lanes = beside(own.filter(({ from }) => from < end))
    bottom += row * Math.max(lanes.length, 1)
    const placed = lanes.flatMap((lane, i) => lane.map((bar) => ({ ...bar, y: top + i * row })))
    const boxes = placed.map(({ from, kind, to, y }) => {
      const [x, width] = [xOf(time, from), xOf(time, Math.min(to, end)) - xOf(time, from)]
      const seconds = `${round(from / 1000)} s to ${round(to / 1000)} s`
      return `<rect class="bar ${text(kind)}" x="${round(x)}" y="${y + 3}" width="${round(Math.max(width, 1))}"` +
        ` height="${row - 6}"><title>${text(name)}: ${text(kind)}, ${seconds}</title></rect>` +
        (width > 9 * kind.length
          ? `<text class="on" x="${round(x + 5)}" y="${y + row / 2}" dy="0.34em">${text(kind)}</text>`
          : "")
    })
    // What has room on the left, also in a wide font.
    const letters = [...name]
    const shown = letters.length > 8 ? `${letters.slice(0, 7).join("")}…` : name
    return `<text x="${LEFT - 6}" y="${top + row / 2}" dy="0.34em" text-anchor="end">${text(shown)}` +
      `<title>${text(name)}</title></text>${boxes.join("")}`
  })
  const height = bottom + BOTTOM
  return svg(label, height, axis(time, height) + drawn.join(""))
}

/** Bars that are on at one time, below each other: in the first lane that is free again. */
const beside = (bars: ReadonlyArray<Bar>): ReadonlyArray<ReadonlyArray<Bar>> => {
  const lanes: Array<Array<Bar>> = []
  for (const bar of bars.toSorted((a, b) => a.from - b.from)) {
    const free = lanes.find((lane) => lane.at(-1)!.to <= bar.from)
    if (free === undefined) lanes.push([bar])
    else free.push(bar)
  }
  return lanes
}
