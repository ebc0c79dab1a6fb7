-- Adds prepared vectors; those of crops that are gone are left out. Arguments: gallery, then rows,
-- vectors and their sums.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local side = redis.call('HGET', gallery.key, 'staged_side')
if not side then return refuse('nothing') end
for number = 2, #ARGV - OWN, 3 do
  local row = argument(number)
  if redis.call('ZSCORE', gallery.at .. 'rows', row) then
    redis.call(
      'HSET', crop_key(gallery.at, row),
      'vector:' .. side, argument(number + 1), 'sum:' .. side, argument(number + 2)
    )
    redis.call('ZADD', gallery.at .. 'staged', row, row)
  end
end
return answer({})
