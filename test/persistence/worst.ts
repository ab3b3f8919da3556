/** How many more were admitted in the worst interval than burst and refill allow. */
export const worstExcess = (times: ReadonlyArray<number>, burst: number, perSecond: number): number => {
  const sorted = times.toSorted((a, b) => a - b)
  // max over a ≤ b of (b - a + 1) - burst - rate·(t_b - t_a), in one pass.
  let worst = -Infinity
  let best = -Infinity
  for (const [i, at] of sorted.entries()) {
    best = Math.max(best, at * perSecond / 1000 - i)
    worst = Math.max(worst, i + 1 - at * perSecond / 1000 + best - burst)
  }
  return worst
}
