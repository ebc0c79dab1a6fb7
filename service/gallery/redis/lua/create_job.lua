-- Arguments: gallery, job, when it was made, microseconds; then names and values.
local gallery, id = find_gallery(argument(1)), argument(2)
if not gallery then return refuse('gone') end
local fields = {'job_id', id, 'gallery_id', gallery.id}
for number = 4, #ARGV - OWN do fields[#fields + 1] = argument(number) end
redis.call('HSET', job_key(id), unpack(fields))
for _, key in ipairs({'gmn:jobs', 'gmn:jobs:open', gallery.key .. ':jobs'}) do
  redis.call('ZADD', key, argument(3), id)
end
set_state(id, redis.call('HGET', job_key(id), 'state'))
note('jobs', gallery.id, gallery.version)
return answer({})
