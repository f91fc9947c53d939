#!lua flags=allow-oom
-- Take a partition over: a new token and owner, unless its state belongs to something else.
--
-- KEYS  1 partition hash, 2 (if any) the same partition's hash of the key generation before
-- ARGV  1 owner, 2 key format, 3 topic id, 4 partition count, 5 model id,
--       6 what it decides by
--
-- The same owner asking again (a lost answer) gets the same token. allow-oom: a worker must be
-- able to start on a full server, so that it can publish and trim.

local state = redis.call('HMGET', KEYS[1], 'token', 'owner', 'offset', 'erasures',
  'model', 'format', 'topic', 'partitions', 'retired', 'broken')
if state[9] then return {'RETIRED', state[9]} end
if state[10] then return {'BROKEN', state[10]} end
if state[6] and state[6] ~= ARGV[2] then return {'FORMAT', state[6]} end
if state[7] and state[7] ~= ARGV[3] then return {'TOPIC', state[7]} end
if state[8] and state[8] ~= ARGV[4] then return {'PARTITIONS', state[8]} end

-- Each command of a step and of a trim: one that Redis refuses this user in the middle of a step
-- would leave it half done.
for _, call in ipairs({{'HGET', '-'}, {'HLEN'}, {'HSET', '-', '-'}, {'HDEL', '-'}, {'DEL'},
  {'MSET', '-'}, {'SETRANGE', '0', '-'}}) do
  if not redis.acl_check_cmd(call[1], KEYS[1], unpack(call, 2)) then
    return {'FORBIDDEN', call[1]}
  end
end

local token = tonumber(state[1] or '0')
if state[2] ~= ARGV[1] then token = token + 1 end
redis.call('HSET', KEYS[1], 'token', string.format('%d', token), 'owner', ARGV[1],
  'format', ARGV[2], 'topic', ARGV[3], 'partitions', ARGV[4], 'model', ARGV[5],
  'decides', ARGV[6])
if KEYS[2] then redis.call('HSET', KEYS[2], 'retired', '1') end
return {'OK', string.format('%d', token), state[3] or '', state[4] or '0', state[5] or ''}
