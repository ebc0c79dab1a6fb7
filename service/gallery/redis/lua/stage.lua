-- Begins to prepare vectors, or with '' drops what was prepared. Arguments: gallery, embedder.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local embedder = argument(2)
local staged, side = unpack(redis.call('HMGET', gallery.key, 'staged', 'staged_side'))
if staged and staged ~= '' then
  if staged == embedder then return answer({staged = staged}) end
  redis.call('UNLINK', gallery.at .. 'staged')
  redis.call('HSET', 'gmn:chores', chore(gallery.id, gallery.generation, 'side:' .. side), 0)
end
if embedder == '' then
  redis.call('HDEL', gallery.key, 'staged', 'staged_side')
else
  local number = redis.call('HINCRBY', gallery.key, 'numbers', 1)
  redis.call('HSET', gallery.key, 'staged', embedder, 'staged_side', number)
end
seal_gallery(gallery.id)
note('gallery_changed', gallery.id, gallery.version)
return answer({staged = embedder})
