-- Asks a job to stop; one that nobody works on is cancelled at once. Arguments: job, now as text.
local id = argument(1)
local state, gallery = unpack(redis.call('HMGET', job_key(id), 'state', 'gallery_id'))
if not state then return refuse('nothing') end
if not FINISHED[state] then
  redis.call('HSET', job_key(id), 'cancelling', 1, 'updated_at', argument(2))
  if state == 'queued' then set_state(id, 'cancelled') end
  note('jobs', gallery, redis.call('HGET', 'gmn:g:' .. gallery, 'version') or 0)
end
return answer(read_job(id))
