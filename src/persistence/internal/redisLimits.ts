// Limits in Redis: one hash per limiter, and the script of `resilience/internal/buckets.ts`, in the words of the server.
//
// Fields: `at`, `told`, and by dimension `l:` level, `b:` blocked until, and by process `i:` seen. A number above 2^31 is
// written with all its digits; levels are given back as texts, because the reply would cut them to whole numbers.
import * as Redis from "effect/persistence/Redis"
import {
  DRIFT,
  MAX_BLOCK,
  RESERVE,
  type Reserve,
  SEEN_FOR,
  type Settle,
  type StoreLimit
} from "../../resilience/internal/buckets.ts"
import { PRELUDE } from "./redisScripts.ts"

/** ARGV[2] = number of limits; then per limit: dimension, burst, rate, and what else `width` says. */
const STATE = `
local n = tonumber(ARGV[2])
local key = KEYS[1]
local dims, burst, rate, level, blocked = {}, {}, {}, {}, {}
local head = redis.call('HMGET', key, 'at', 'told')
local at, told = num(head[1]), num(head[2])
-- The server's clock was set back by so much.
local back = math.max(0, at - ms)
local elapsed = math.max(0, ms - at)
told = told - back
local function arg(i, j) return ARGV[3 + (i - 1) * width + j] end
for i = 1, n do
  dims[i], burst[i], rate[i] = arg(i, 0), tonumber(arg(i, 1)), tonumber(arg(i, 2))
  local r = redis.call('HMGET', key, 'l:' .. dims[i], 'b:' .. dims[i])
  level[i] = burst[i]
  if tonumber(r[1] or '') then level[i] = math.min(burst[i], r[1] + elapsed * rate[i]) end
  blocked[i] = math.max(0, num(r[2]) - back - ms)
end
local function exact(x) return string.format('%.17g', x) end
local function save()
  local fields, lasts = { 'at', text(ms), 'told', text(told) }, ${SEEN_FOR}
  for i = 1, n do
    if back > 0 then redis.call('HSET', key, 'b:' .. dims[i], exact(ms + blocked[i])) end
    fields[#fields + 1] = 'l:' .. dims[i]
    fields[#fields + 1] = exact(level[i])
    lasts = math.max(lasts, (burst[i] - level[i]) / rate[i], blocked[i])
  end
  redis.call('HSET', key, unpack(fields))
  redis.call('PEXPIRE', key, text(math.min(math.ceil(lasts) + 60000, 1e12)))
end
`

export type ReserveReply = readonly [
  granted: number | string,
  wait: number | string,
  extra: number | string,
  binding: number | string,
  instances: number | string,
  ...levels: ReadonlyArray<string>
]

/** Per limit: cost, each. At the end: maxWait, count, instance. */
export const reserve = Redis.script(
  (name: string, now: string, { costs, extra, instance, limits, maxWait }: Reserve) => [
    name,
    now,
    limits.length,
    ...limits.flatMap(({ burst, dimension, rate }, i) => [dimension, burst, rate, costs[i]!, extra?.each[i] ?? 0]),
    Math.min(maxWait, 1e15),
    extra?.count ?? 0,
    instance ?? ""
  ],
  {
    numberOfKeys: 1,
    lua: `
local width = 5
${PRELUDE}
${STATE}
local last = 3 + n * width
local longest, count, instance = tonumber(ARGV[last]), tonumber(ARGV[last + 1]), ARGV[last + 2]
local instances = -1
if instance ~= '' then
  redis.call('HSET', key, 'i:' .. instance, text(ms))
  local all = redis.call('HGETALL', key)
  instances = 0
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'i:' then
      local seen = num(all[i + 1])
      if seen > ms - ${SEEN_FOR} and seen <= ms then instances = instances + 1 else redis.call('HDEL', key, all[i]) end
    end
  end
end
local wait, binding = 0, 1
for i = 1, n do
  local cost = tonumber(arg(i, 3))
  if cost > 0 then
    local missing = (math.min(cost, burst[i]) - level[i] - ${DRIFT} * burst[i]) / rate[i]
    local own = math.ceil(math.max(missing, blocked[i]))
    if own > wait then wait, binding = own, i end
  end
end
local along = 0
local granted = wait <= longest
if granted then
  if wait == 0 then along = count end
  for i = 1, n do
    local cost, each = tonumber(arg(i, 3)), tonumber(arg(i, 4))
    if cost > 0 then level[i] = math.min(level[i], burst[i] - rate[i] * wait) - cost end
    if each > 0 then along = math.min(along, math.max(0, math.floor((level[i] - ${RESERVE} * burst[i]) / each))) end
    if blocked[i] > 0 then along = 0 end
  end
  for i = 1, n do level[i] = level[i] - along * tonumber(arg(i, 4)) end
  told = math.max(told, ms + wait)
end
save()
local reply = { granted and 1 or 0, text(wait), along, binding - 1, instances }
for i = 1, n do reply[#reply + 1] = exact(level[i]) end
return reply
`
  }
).withReturnType<ReserveReply>()

/** Per limit: back, at most ('' for none), block. At the end: early. */
export const settle = Redis.script(
  (name: string, now: string, { atMost, back, block, early, limits }: Settle) => [
    name,
    now,
    limits.length,
    ...limits.flatMap(({ burst, dimension, rate }, i) => [
      dimension,
      burst,
      rate,
      back?.[i] ?? 0,
      atMost?.[i] ?? "",
      block?.[i] ?? 0
    ]),
    early ?? 0
  ],
  {
    numberOfKeys: 1,
    lua: `
local width = 6
${PRELUDE}
${STATE}
local early = tonumber(ARGV[3 + n * width])
local promised = math.max(0, told - ms)
if early > 0 and ms + early >= told then promised, told = 0, ms end
for i = 1, n do
  local amount, most, block = tonumber(arg(i, 3)), arg(i, 4), math.min(tonumber(arg(i, 5)), ${MAX_BLOCK})
  if amount < 0 then level[i] = level[i] + amount end
  if amount > 0 then level[i] = math.max(level[i], math.min(burst[i] - rate[i] * promised, level[i] + amount)) end
  if most ~= '' then level[i] = math.min(level[i], tonumber(most)) end
  if block > 0 and block > blocked[i] then
    blocked[i] = block
    redis.call('HSET', key, 'b:' .. dims[i], exact(ms + block))
  end
end
save()
return 1
`
  }
).withReturnType<number | string>()

/** Changes nothing. */
export const snapshot = Redis.script(
  (name: string, now: string, limits: ReadonlyArray<StoreLimit>) => [
    name,
    now,
    limits.length,
    ...limits.flatMap(({ burst, dimension, rate }) => [dimension, burst, rate])
  ],
  {
    numberOfKeys: 1,
    lua: `
local width = 3
${PRELUDE}
${STATE}
local reply = {}
for i = 1, n do
  reply[#reply + 1] = exact(level[i])
  reply[#reply + 1] = exact(blocked[i])
end
return reply
`
  }
).withReturnType<ReadonlyArray<string>>()
