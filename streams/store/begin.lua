#!lua
-- Begin a key generation that has never been used.
--
-- KEYS  1 pointer hash

local state = redis.call('HMGET', KEYS[1], 'current', 'building')
local fresh = math.max(tonumber(state[1] or '0'), tonumber(state[2] or '0')) + 1
redis.call('HSET', KEYS[1], 'building', string.format('%d', fresh))
return {'OK', string.format('%d', fresh)}
