-- Adds crops to a generation that is prepared. Arguments: gallery, generation, side, for how long it
-- is kept from now on, milliseconds, how many crops; then each one's JSON, vector and picture.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local generation, side = argument(2), argument(3)
local kept = chore(gallery.id, generation, 'generation')
-- 0 means that somebody began to tidy it away.
if (redis.call('HGET', 'gmn:chores', kept) or '0') == '0' then return refuse('given_up') end
redis.call('HSET', 'gmn:chores', kept, text(now_ms() + argument(4)))
local at = at_generation(gallery.id, generation)
for number = 1, tonumber(argument(5)) do
  local first = 3 + 3 * number
  local crop = cjson.decode(argument(first))
  if redis.call('HEXISTS', at .. 'ids', crop.crop_id) == 1 then
    return redis.error_reply('ERR crop ' .. crop.crop_id .. ' comes twice')
  end
  if not redis.call('ZSCORE', gallery.key .. ':tombstones', crop.crop_id) then
    insert(at, side, crop, argument(first + 1), argument(first + 2))
  end
end
return answer({})
