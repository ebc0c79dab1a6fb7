-- Takes out of a prepared generation what was removed since it was begun, a batch at a time, and then
-- makes it the gallery's own. Arguments: gallery, generation, side, the change after which it was
-- begun, embedder, moment, how many at most.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local generation, limit = argument(2), tonumber(argument(7))
local kept = chore(gallery.id, generation, 'generation')
if (redis.call('HGET', 'gmn:chores', kept) or '0') == '0' then return refuse('given_up') end
local at = at_generation(gallery.id, generation)
local gone = redis.call(
  'ZRANGEBYSCORE', gallery.key .. ':tombstones', '(' .. argument(4), '+inf'
)
local taken = 0
for _, crop_id in ipairs(gone) do
  local row = redis.call('HGET', at .. 'ids', crop_id)
  if row then
    take_out(gallery.id, at, row, {}, argument(6))
    taken = taken + 1
    if taken == limit then return answer({more = true}) end
  end
end
redis.call('HDEL', gallery.key, 'staged', 'staged_side')
drop_calibrations(gallery.key)
redis.call(
  'HSET', gallery.key, 'generation', generation, 'side', argument(3), 'embedder', argument(5)
)
seal_gallery(gallery.id)
redis.call('HDEL', 'gmn:chores', kept)
redis.call('HSET', 'gmn:chores', chore(gallery.id, gallery.generation, 'generation'), 0)
local version = raise_version(gallery)
note('replaced', gallery.id, version)
return answer({version = version})
