-- Reads what an index needs of crops. Arguments: gallery, which vectors ('searched' or 'staged'),
-- then 'after', a row and a limit, or 'rows' and row ids. Answers which generation and side that
-- was, how far it went, and the crops that have such a vector.
local gallery = find_gallery(argument(1))
if not gallery then return {'', ''} end
local staged = argument(2) == 'staged'
local side = staged and redis.call('HGET', gallery.key, 'staged_side') or gallery.side
local rows = {}
if argument(3) == 'after' then
  rows = rows_after(gallery.at .. (staged and 'staged' or 'rows'), argument(4), argument(5))
else
  for number = 4, #ARGV - OWN do
    if redis.call('ZSCORE', gallery.at .. 'rows', argument(number)) then
      rows[#rows + 1] = argument(number)
    end
  end
end
local found = {gallery.generation .. ':' .. (side or ''), rows[#rows] or ''}
for _, row in ipairs(rows) do
  found[#found + 1] = {row, redis.call(
    'HMGET', crop_key(gallery.at, row),
    'crop_id', 'identity', 'camera', 'captured_at', 'vector:' .. side
  )}
end
return found
