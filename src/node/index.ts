/**
 * What only Node can do. Needs `@effect/platform-node`.
 *
 * @since 0.2.0
 */

/** An HTTP client straight on undici's dispatcher. */
export * as DispatcherHttpClient from "./DispatcherHttpClient.ts"
