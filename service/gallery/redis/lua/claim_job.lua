-- Takes the oldest job without a worker, or whose worker's lease has run out by this server's clock.
-- Arguments: worker, lease in microseconds.
local worker, now, lease = argument(1), now_us(), tonumber(argument(2))
for _, id in ipairs(redis.call('ZRANGE', 'gmn:jobs:open', 0, -1)) do
  local held_by, lease_until = unpack(
    redis.call('HMGET', job_key(id), 'worker', 'lease_until')
  )
  if not lease_until or tonumber(lease_until) < now or held_by == worker then
    redis.call(
      'HSET', job_key(id), 'worker', worker, 'lease', text(lease), 'lease_until', text(now + lease),
      'state', 'running'
    )
    return answer(read_job(id))
  end
end
return refuse('nothing')
