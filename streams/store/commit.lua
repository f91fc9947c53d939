#!lua
-- One step of one partition: everything or nothing.
--
-- KEYS  1 partition hash, 2 outbox hash, 3 markers hash, then the records written, then the records
--       erased; all with the same hash tag, all declared, so Redis Cluster can route the call
-- ARGV  1 token, 2 owner, 3 expected offset ('' = none yet), 4 next offset, 5 erasures,
--       6 outbox limit, 7 outbox entry ('' = none), 8 counts, 9 spans, 10 blob (see store.Writes),
--       then per erased record: digest of the account, offset of its tombstone
--
-- No flag allow-oom: above maxmemory Redis refuses the script before its first line. Every check
-- stands before the first write. A write can then only fail on a key of a foreign type; should
-- that happen the partition is marked broken, and nobody uses it again: never silently half done.

local state = redis.call('HMGET', KEYS[1],
  'token', 'owner', 'offset', 'erasures', 'retired', 'broken')
local token, owner, offset, erasures = state[1], state[2], state[3] or '', state[4] or '0'

if state[5] then return {'RETIRED', state[5]} end
if state[6] then return {'BROKEN', state[6]} end
if not token or tonumber(token) < tonumber(ARGV[1]) then return {'LOST', token or ''} end
if token ~= ARGV[1] or owner ~= ARGV[2] then return {'FENCED', token} end
-- The same owner asks again: its first call came through and only the answer was lost.
if offset == ARGV[4] then return {'OK', 'again'} end
if offset ~= ARGV[3] then return {'OFFSET', offset} end
if erasures ~= ARGV[5] then return {'ERASED', erasures} end
if ARGV[7] ~= '' and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then
  return {'FULL', ARGV[6]}
end

local unpack_, sub, pcall_ = struct.unpack, string.sub, redis.pcall
local counts, spans, blob = ARGV[8], ARGV[9], ARGV[10]
local WHOLE, MSET_ARGS = 4294967295, 1000
local records = #counts / 2
local fault

local function attempt(...)
  local reply = pcall_(...)
  if type(reply) == 'table' and reply.err then fault = fault or reply.err end
end

for i = 4 + records, #KEYS do
  local digest, cut = ARGV[11 + 2 * (i - 4 - records)], ARGV[12 + 2 * (i - 4 - records)]
  local known = redis.call('HGET', KEYS[3], digest)
  if not known or tonumber(known) < tonumber(cut) then attempt('HSET', KEYS[3], digest, cut) end
  attempt('DEL', KEYS[i])
end

-- Whole records gather for MSET: one command for 500 records costs half of 500 SETs.
local many, filled = {'MSET'}, 1
local span, byte = 1, 1
for i = 1, records do
  local key = KEYS[3 + i]
  for _ = 1, unpack_('<I2', counts, 2 * i - 1) do
    local at, length = unpack_('<I4I4', spans, span)
    span = span + 8
    local piece = sub(blob, byte, byte + length - 1)
    byte = byte + length
    if at == WHOLE then
      many[filled + 1], many[filled + 2] = key, piece
      filled = filled + 2
      if filled > MSET_ARGS then
        attempt(unpack(many, 1, filled))
        filled = 1
      end
    else
      local reply = pcall_('SETRANGE', key, at, piece)
      if type(reply) == 'table' then fault = fault or reply.err end
    end
  end
end
if filled > 1 then attempt(unpack(many, 1, filled)) end

if ARGV[7] ~= '' then attempt('HSET', KEYS[2], ARGV[4], ARGV[7]) end
if fault then
  redis.call('HSET', KEYS[1], 'broken', fault)
  return {'BROKEN', fault}
end
redis.call('HSET', KEYS[1], 'offset', ARGV[4])
return {'OK', ''}
