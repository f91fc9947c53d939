#!lua flags=allow-oom
-- Put a generation in use, if it is still the one being built.
--
-- KEYS  1 pointer hash
-- ARGV  1 generation, 2 partition count it was made for

local state = redis.call('HMGET', KEYS[1], 'current', 'building')
if state[1] == ARGV[1] then return {'OK', 'again'} end
if state[2] ~= ARGV[1] then return {'OTHER', state[2] or ''} end
redis.call('HSET', KEYS[1], 'before', state[1] or '0', 'current', ARGV[1], 'partitions', ARGV[2])
redis.call('HDEL', KEYS[1], 'building')
return {'OK', ''}
