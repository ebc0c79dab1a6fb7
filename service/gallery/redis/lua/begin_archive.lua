-- Holds a gallery as it is: until this is over, what is removed keeps its hash and what is renamed
-- its name for this archive. Arguments: gallery, the archive's name, for how long, milliseconds.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local name, own = argument(2), gallery.at .. 'archive:' .. argument(2)
local newest = redis.call('ZREVRANGE', gallery.at .. 'rows', 0, 0)[1] or '0'
redis.call('ZADD', gallery.at .. 'archives', text(now_ms() + argument(3)), name)
redis.call('HSET', own, 'newest', newest, 'side', gallery.side)
redis.call('HSET', 'gmn:chores', chore(gallery.id, gallery.generation, 'archive:' .. name), 0)
return answer({
  version = gallery.version,
  generation = gallery.generation,
  embedder = redis.call('HGET', gallery.key, 'embedder'),
  without_row = without_row(gallery.at)
})
