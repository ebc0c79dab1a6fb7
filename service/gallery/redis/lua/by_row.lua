-- Reads the crops of these rows that are there. Arguments: gallery, row ids.
local gallery = find_gallery(argument(1))
local found = {}
if not gallery then return found end
for number = 2, #ARGV - OWN do
  local row = argument(number)
  if redis.call('ZSCORE', gallery.at .. 'rows', row) then
    found[#found + 1] = {row, redis.call('HMGET', crop_key(gallery.at, row), unpack(SEALED))}
  end
end
return found
