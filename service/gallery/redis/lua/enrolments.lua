-- Reads when crops were enrolled, in the order of their rows. Arguments: gallery, after. Answers where
-- to go on ('' at the end), and id and time of each.
local LOOKED_AT = 1000
local gallery = find_gallery(argument(1))
if not gallery then return {''} end
local rows = rows_after(gallery.at .. 'rows', argument(2), LOOKED_AT)
local found = {#rows == LOOKED_AT and rows[#rows] or ''}
for _, row in ipairs(rows) do
  local crop = redis.call('HMGET', crop_key(gallery.at, row), 'crop_id', 'created_at')
  if crop[1] then found[#found + 1] = crop end
end
return found
