// Values and leases in Redis: one hash per key, one script per operation, so that each is one atomic step in one slot.
//
// Fields: `v` value, `s` set at, `e` ends at (milliseconds), `f` fence, `o` owner of a lease. A hash without `v` is a lease.
// A fence is the server's time in microseconds, or one more than the last one of the key: it grows also when the server was
// emptied. Time is the server's; a test may give another as the first argument.
import * as Redis from "effect/persistence/Redis"
import { EVER, GRACE } from "./bounds.ts"

/**
 * `us`, `ms`: now. Numbers above 2^31 must not be written by `tostring`, which rounds them. A key that holds another type, and
 * a number that is none, count as absent.
 */
export const PRELUDE = `
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local us
if ARGV[1] ~= '' then us = tonumber(ARGV[1]) * 1000
else local t = redis.call('TIME') us = t[1] * 1000000 + t[2] end
local ms = math.floor(us / 1000)
local function text(n) return string.format('%.0f', n) end
local function num(s) return tonumber(s or 0) or 0 end
`

const READ = `
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'e', 'f', 'o')
local v, s, e, f, o = r[1], num(r[2]), num(r[3]), num(r[4]), r[5]
local lives = ms < e
`

/** Keeps the fence, so that the next one is higher. */
const END = `
redis.call('HDEL', KEYS[1], 'v', 's', 'o')
redis.call('HSET', KEYS[1], 'e', '0')
redis.call('PEXPIRE', KEYS[1], ${GRACE})
`

const PUT = (value: string, ttl: string): string => `
redis.call('HDEL', KEYS[1], 'o')
redis.call('HSET', KEYS[1], 'v', ${value}, 's', text(ms), 'e', text(ms + ${ttl}), 'f', text(f))
redis.call('PEXPIRE', KEYS[1], text(math.max(${ttl}, 1)))
`

const script = <Args extends ReadonlyArray<string>>(lua: string) =>
  Redis.script((key: string, now: string, ...args: Args) => [key, now, ...args], {
    lua: PRELUDE + READ + lua,
    numberOfKeys: 1
  })

export const get = script<[]>(`
if lives and v then return { v, math.max(0, ms - s) } end
return false
`).withReturnType<readonly [string, number | string] | null>()

export const set = script<[value: string, ttl: string]>(`
local ttl = tonumber(ARGV[3])
${PUT("ARGV[2]", "ttl")}
return 1
`).withReturnType<number | string>()

export const remove = script<[]>(`
if f > 0 then ${END} else redis.call('DEL', KEYS[1]) end
return 1
`).withReturnType<number | string>()

export type AcquireReply =
  | readonly ["F", string, number | string]
  | readonly ["H", number | string]
  | readonly ["A", string]

export const acquire = script<[lease: string, owner: string, takeOver: string, isReplacing: string, replacing: string]>(
  `
local lease = tonumber(ARGV[2])
if lives then
  if v then
    if not (ARGV[5] == '1' and v == ARGV[6]) then return { 'F', v, math.max(0, ms - s) } end
  elseif not (ARGV[4] == '1' and o ~= ARGV[3]) then return { 'H', e - ms } end
end
local fence = math.max(us, f + 1)
redis.call('HDEL', KEYS[1], 'v', 's')
redis.call('HSET', KEYS[1], 'e', text(ms + lease), 'f', text(fence), 'o', ARGV[3])
redis.call('PEXPIRE', KEYS[1], text(lease + ${GRACE}))
return { 'A', text(fence) }
`
).withReturnType<AcquireReply>()

const mine = "not v and f > 0 and f == tonumber(ARGV[2])"

export const renew = script<[fence: string, lease: string]>(`
if not (lives and ${mine}) then return 0 end
local lease = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'e', text(ms + lease))
redis.call('PEXPIRE', KEYS[1], text(lease + ${GRACE}))
return 1
`).withReturnType<number | string>()

export const complete = script<[fence: string, value: string, ttl: string]>(`
if lives and not (${mine}) then return 0 end
local ttl = tonumber(ARGV[4])
${PUT("ARGV[3]", "ttl")}
return 1
`).withReturnType<number | string>()

export const release = script<[fence: string]>(`
if lives and ${mine} then ${END} end
return 1
`).withReturnType<number | string>()

/** Milliseconds as an argument. */
export const millis = (value: number): string => String(Math.ceil(Math.min(value, EVER)))
