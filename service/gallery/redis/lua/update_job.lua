-- Arguments: job, its worker ('' for any), state, now as text; then 'progress' and 'detail', '' for
-- none, then positions and texts of problems.
local id, worker, state = argument(1), argument(2), argument(3)
local key = job_key(id)
local held_by, was, lease = unpack(redis.call('HMGET', key, 'worker', 'state', 'lease'))
if not was then return refuse('nothing') end
-- Another one took it over while this one did not answer.
if worker ~= '' and held_by ~= worker then return refuse('nothing') end
if FINISHED[was] and not FINISHED[state] then return refuse('nothing') end
redis.call(
  'HSET', key, 'updated_at', argument(4), 'progress', argument(5), 'detail', argument(6)
)
if lease then redis.call('HSET', key, 'lease_until', text(now_us() + lease)) end
set_state(id, state)
for number = 7, #ARGV - OWN, 2 do
  redis.call('HSET', key .. ':problems', argument(number), argument(number + 1))
  redis.call('ZADD', key .. ':positions', argument(number), argument(number))
end
return answer(read_job(id))
