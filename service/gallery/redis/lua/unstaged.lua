-- Reads crops that have no prepared vector. Arguments: gallery, after, limit, how many to look at.
-- Answers where to go on ('' at the end) and the crops.
local gallery = find_gallery(argument(1))
if not gallery then return {''} end
local limit, looked_at = tonumber(argument(3)), tonumber(argument(4))
local rows, found = rows_after(gallery.at .. 'rows', argument(2), looked_at), {''}
for _, row in ipairs(rows) do
  if not redis.call('ZSCORE', gallery.at .. 'staged', row) then
    found[#found + 1] = {row, redis.call('HMGET', crop_key(gallery.at, row), unpack(SEALED))}
  end
  if #found - 1 == limit then return found end
end
if #rows == looked_at then found[1] = rows[#rows] end
return found
