-- Lets a chore be done now. Argument: the chore. A full server lets this through.
free_memory()
if redis.call('HEXISTS', 'gmn:chores', argument(1)) == 1 then
  redis.call('HSET', 'gmn:chores', argument(1), 0)
end
return answer({})
