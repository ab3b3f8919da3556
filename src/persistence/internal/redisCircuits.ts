// Circuits in Redis: one hash per circuit, and the scripts of `resilience/internal/circuits.ts`, in the words of the server.
//
// Fields: `g` generation, `m` mode, `u` open until (0: closed), `n` openings, `o` open for, and by slot `p:` end of its lease.
// Each change is published on one channel, as the key of its circuit.
import * as Redis from "effect/persistence/Redis"
import type { Mode } from "../../resilience/CircuitBreaker.ts"
import { type CircuitChange, KEPT, type SharedCircuit } from "../../resilience/internal/circuits.ts"
import { millis, PRELUDE } from "./redisScripts.ts"

const READ = `
local g, m, u, n, o = 0, 'auto', 0, 0, 0
local slots = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local f, v = all[i], all[i + 1]
  if f == 'g' then g = num(v)
  elseif f == 'm' then if v == 'open' or v == 'closed' or v == 'metrics-only' then m = v end
  elseif f == 'u' then u = num(v)
  elseif f == 'n' then n = num(v)
  elseif f == 'o' then o = num(v)
  elseif string.sub(f, 1, 2) == 'p:' then slots[string.sub(f, 3)] = num(v) end
end
if u > ms + o then
  -- The server's clock was set back.
  u = ms + o
  redis.call('HSET', KEYS[1], 'u', text(u))
end
local function held(slot) return (slots[slot] or 0) > ms end
local function seen()
  if g == 0 then return false end
  return { text(g), m, u > 0 and 1 or 0, text(math.max(0, u - ms)), text(n), text(o) }
end
local function keep() redis.call('PEXPIRE', KEYS[1], text(math.max(0, u - ms) + ${KEPT})) end
`

export type CircuitReply =
  | readonly [generation: string, mode: Mode, isOpen: number | string, left: string, openings: string, openFor: string]
  | null

export const circuitOf = (reply: CircuitReply): SharedCircuit | undefined =>
  reply === null ? undefined : {
    generation: Number(reply[0]),
    mode: reply[1],
    isOpen: Number(reply[2]) === 1,
    left: Number(reply[3]),
    openings: Number(reply[4]),
    openFor: Number(reply[5])
  }

const wordsOf = (change: CircuitChange): ReadonlyArray<string> => {
  switch (change._tag) {
    case "Opened":
      return ["O", millis(change.openFor), String(change.openings)]
    case "Closed":
      return ["C", String(change.slot), ""]
    case "Forced":
      return ["F", change.mode, ""]
  }
}

export const trip = Redis.script(
  (name: string, now: string, change: CircuitChange, channel: string, key: string) => [
    name,
    now,
    ...wordsOf(change),
    channel,
    key
  ],
  {
    lua: PRELUDE + READ + `
local what, a, b = ARGV[2], ARGV[3], ARGV[4]
if what == 'F' then
  if a == m and g > 0 then return seen() end
  m, u, n, o = a, 0, 0, 0
elseif m ~= 'auto' then return seen()
elseif what == 'C' then
  if not held(a) then return seen() end
  u = 0
else
  local till = ms + tonumber(a)
  if u < till then
    if u > ms then n = math.max(n, tonumber(b)) else n = tonumber(b) end
    u, o = till, tonumber(a)
  end
end
g = math.max(us, g + 1)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'g', text(g), 'm', m, 'u', text(u), 'n', text(n), 'o', text(o))
keep()
redis.call('PUBLISH', ARGV[5], ARGV[6])
return seen()
`,
    numberOfKeys: 1
  }
).withReturnType<CircuitReply>()

export const probe = Redis.script(
  (name: string, now: string, slots: string, lease: string) => [name, now, slots, lease],
  {
    lua: PRELUDE + READ + `
local count, slot = 0, us
for id, till in pairs(slots) do
  if till > ms then
    count = count + 1
    slot = math.max(slot, num(id) + 1)
  else redis.call('HDEL', KEYS[1], 'p:' .. id) end
end
if m ~= 'auto' or u > ms or count >= tonumber(ARGV[2]) then return { '', seen() } end
redis.call('HSET', KEYS[1], 'p:' .. text(slot), text(ms + tonumber(ARGV[3])))
keep()
return { text(slot), seen() }
`,
    numberOfKeys: 1
  }
).withReturnType<readonly [string, CircuitReply]>()

export const renew = Redis.script(
  (name: string, now: string, slot: string, lease: string) => [name, now, slot, lease],
  {
    lua: PRELUDE + READ + `
if held(ARGV[2]) then redis.call('HSET', KEYS[1], 'p:' .. ARGV[2], text(ms + tonumber(ARGV[3]))) end
return 1
`,
    numberOfKeys: 1
  }
).withReturnType<number | string>()

export const release = Redis.script((name: string, now: string, slot: string) => [name, now, slot], {
  lua: `${PRELUDE}
return redis.call('HDEL', KEYS[1], 'p:' .. ARGV[2])
`,
  numberOfKeys: 1
}).withReturnType<number | string>()

/** Whoever looks keeps what an operator has set. */
export const look = Redis.script((name: string, now: string) => [name, now], {
  lua: PRELUDE + READ + `
if m ~= 'auto' then keep() end
return seen()
`,
  numberOfKeys: 1
}).withReturnType<CircuitReply>()
