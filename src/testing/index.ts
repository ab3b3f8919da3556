/**
 * The tools this library is tested with, for your tests too.
 *
 * @since 0.1.0
 */

/** A provider of yours, and what goes wrong between it and you. */
export * as Chaos from "./Chaos.ts"

/** A clock that counts its sleeps. */
export * as CountingClock from "./CountingClock.ts"

/** A real HTTP server on loopback that plays fault scripts in the wire formats of the providers. */
export * as FaultServer from "./FaultServer.ts"

/** The laws of a pipeline, over what a run left behind. */
export * as Invariants from "./Invariants.ts"

/** A provider that plays a script. */
export * as ScriptedProvider from "./ScriptedProvider.ts"

/** What would have happened: a policy, hours of arrivals and vendors that fail, in a second. */
export * as Simulator from "./Simulator.ts"

/** A clock that runs by itself, as fast as the machine can, and the same way with the same seed. */
export * as VirtualTime from "./VirtualTime.ts"

/** What every store must do, and what checks it. */
export * as StoreLaws from "./StoreLaws.ts"

/** What every provider must do, and what drives it. */
export * as ProviderLaws from "./ProviderLaws.ts"

/** The laws of a provider. */
export { providerLaws } from "./ProviderLaws.ts"
