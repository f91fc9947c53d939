#!lua flags=allow-oom
-- Drop named outbox entries, under the newest claim alone. allow-oom: this frees memory.
--
-- KEYS  1 partition hash, 2 outbox hash
-- ARGV  1 token, 2 owner, then the sequence numbers

local state = redis.call('HMGET', KEYS[1], 'token', 'owner', 'retired')
local token, owner = state[1], state[2]
if state[3] then return {'RETIRED', state[3]} end
if not token or tonumber(token) < tonumber(ARGV[1]) then return {'LOST', token or ''} end
if token ~= ARGV[1] or owner ~= ARGV[2] then return {'FENCED', token} end
for i = 3, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
return {'OK', ''}
