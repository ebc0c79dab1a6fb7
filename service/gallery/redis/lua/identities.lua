-- Reads identities in order. Arguments: gallery, after, limit.
local gallery = find_gallery(argument(1))
if not gallery then return {} end
local names = redis.call(
  'ZRANGEBYLEX', gallery.at .. 'names', '(' .. argument(2), '+', 'LIMIT', 0, argument(3)
)
local found = {}
for number, name in ipairs(names) do
  local crops, cameras = unpack(
    redis.call('HMGET', gallery.at .. 'counts', 'crops:' .. name, 'cameras:' .. name)
  )
  found[number] = {name, crops, cameras or '0'}
end
return found
