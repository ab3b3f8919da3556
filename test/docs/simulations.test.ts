// What the pages about the simulator say that it printed, it prints.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { canRun, pages, root, runSimulation, simulationsIn } from "./simulations.ts"

const AGAIN = "node test/docs/simulations.ts writes what is printed now"

for (const page of pages) {
  describe(page, () => {
    const simulations = simulationsIn(page)

    it("has its commands read", () => {
      const written = readFileSync(join(root, page), "utf8").split("```sh\nnpx resilient-llm simulate").length - 1
      assert.isAbove(written, 0)
      assert.lengthOf(simulations, written)
    })

    for (const simulation of simulations) {
      it.skipIf(!canRun(simulation))(simulation.command, async () => {
        const { pictures, printed } = await runSimulation(simulation)
        assert.strictEqual(printed, simulation.said, AGAIN)
        for (const [path, svg] of pictures) assert.strictEqual(readFileSync(join(root, path), "utf8"), svg, AGAIN)
      }, 180_000)
    }
  })
}
