/**
 * Where state lives.
 *
 * @since 0.1.0
 */
export * as Store from "./Store.ts"

/** Whether a store answers, and how long it is waited for. */
export * as Health from "./Health.ts"
