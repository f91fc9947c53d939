#!lua flags=allow-oom
-- Erase one account from outside: its record goes, a marker stays, the erasure is counted, so that
-- the next commit of a worker that still holds the account in memory is refused.
--
-- A partition that stands behind the cut has applied the account's tombstone itself: what there is
-- of the account came later and stays.
--
-- KEYS  1 partition hash, 2 markers hash, 3 the record
-- ARGV  1 digest of the account, 2 cut offset

local known = redis.call('HGET', KEYS[2], ARGV[1])
if not known or tonumber(known) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
local offset = redis.call('HGET', KEYS[1], 'offset')
if offset and tonumber(offset) > tonumber(ARGV[2]) then return {'OK', 'behind'} end
redis.call('DEL', KEYS[3])
redis.call('HINCRBY', KEYS[1], 'erasures', 1)
return {'OK', ''}
