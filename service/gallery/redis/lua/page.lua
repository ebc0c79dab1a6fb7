-- Reads crops in the order of their rows. Arguments: gallery, after, limit, how many to look at; then
-- names and values that they must have. Answers where to go on ('' at the end) and the crops.
local gallery = find_gallery(argument(1))
if not gallery then return {''} end
local after, limit, looked_at = argument(2), tonumber(argument(3)), tonumber(argument(4))
local wanted = {}
for number = 5, #ARGV - OWN, 2 do
  wanted[#wanted + 1] = {name = argument(number), value = argument(number + 1)}
end
local rows
if #wanted > 0 then
  -- The last one is what fewest crops have.
  local last = wanted[#wanted]
  rows = rows_by(gallery.at, last.name, last.value, after, looked_at)
else
  rows = rows_after(gallery.at .. 'rows', after, math.min(limit, looked_at))
end
local found = {''}
for _, row in ipairs(rows) do
  local crop = redis.call('HMGET', crop_key(gallery.at, row), unpack(SEALED))
  local fits = true
  for _, one in ipairs(wanted) do
    if redis.call('HGET', crop_key(gallery.at, row), one.name) ~= one.value then fits = false end
  end
  if fits then found[#found + 1] = {row, crop} end
  if #found - 1 == limit then return found end
end
if #wanted > 0 and #rows == looked_at then found[1] = rows[#rows] end
return found
