#!lua flags=allow-oom
-- Put numbers into a partition's note. allow-oom: a claim writes one, and a worker must be able to
-- start on a full server; a note is a handful of numbers.
--
-- KEYS  1 note hash
-- ARGV  names and values in turn

redis.call('HSET', KEYS[1], unpack(ARGV))
return {'OK', ''}
