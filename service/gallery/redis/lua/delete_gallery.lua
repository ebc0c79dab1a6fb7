-- Argument: gallery. Its crops are removed afterwards, by a chore. A full server lets this through.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
free_memory()
redis.call('HDEL', 'gmn:names', redis.call('HGET', gallery.key, 'name'))
for _, job in ipairs(redis.call('ZRANGE', gallery.key .. ':jobs', 0, -1)) do
  local key = 'gmn:job:' .. job
  redis.call('UNLINK', key, key .. ':problems', key .. ':positions')
  redis.call('ZREM', 'gmn:jobs', job)
  redis.call('ZREM', 'gmn:jobs:open', job)
end
drop_calibrations(gallery.key)
for _, name in ipairs({'', ':jobs', ':snapshots', ':tombstones'}) do
  redis.call('UNLINK', gallery.key .. name)
end
redis.call('HSET', 'gmn:chores', chore(gallery.id, gallery.generation, 'generation'), 0)
note('gallery_deleted', gallery.id, gallery.version)
return answer({version = gallery.version})
