#!lua flags=allow-oom
-- Put a scrubbed outbox entry in the place of the one it was made from, if that is still there.
--
-- KEYS  1 outbox hash
-- ARGV  1 sequence number, 2 the entry as it was read, 3 the entry scrubbed ('' = nothing is left)

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'OTHER', ''} end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return {'OK', ''}
