-- Makes the prepared vectors the gallery's own. Argument: gallery.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local staged, side = unpack(redis.call('HMGET', gallery.key, 'staged', 'staged_side'))
local missing = redis.call('ZCARD', gallery.at .. 'rows') - redis.call('ZCARD', gallery.at .. 'staged')
if not staged or missing > 0 then return refuse('missing') end
-- What the old embedder's scores taught is nothing to the new one's.
redis.call('HDEL', gallery.key, 'staged', 'staged_side')
drop_calibrations(gallery.key)
redis.call('HSET', gallery.key, 'embedder', staged, 'side', side)
seal_gallery(gallery.id)
redis.call('UNLINK', gallery.at .. 'staged')
redis.call('HSET', 'gmn:chores', chore(gallery.id, gallery.generation, 'side:' .. gallery.side), 0)
local version = raise_version(gallery)
note('replaced', gallery.id, version)
return answer({version = version})
