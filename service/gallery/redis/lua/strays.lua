-- Arguments: 'expect', gallery, until, then crop ids; or 'forget', then crop ids.
if argument(1) == 'expect' then
  for number = 4, #ARGV - OWN do
    redis.call('ZADD', 'gmn:strays', argument(3), argument(number))
    redis.call('HSET', 'gmn:strays:galleries', argument(number), argument(2))
  end
else
  free_memory()
  for number = 2, #ARGV - OWN do
    redis.call('ZREM', 'gmn:strays', argument(number))
    redis.call('HDEL', 'gmn:strays:galleries', argument(number))
  end
end
return answer({})
