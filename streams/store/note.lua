#!lua flags=allow-oom
-- Put numbers into a partition's note, or take the note away. allow-oom: a claim writes one, and a
-- worker must be able to start on a full server; a note is a handful of numbers.
--
-- KEYS  1 note hash
-- ARGV  1 token of the claim whose note it must be, '' to write whatever is there;
--       2.. names and values in turn, none to take the note away

if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return {'OTHER', ''}
end
if #ARGV == 1 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
end
return {'OK', ''}
