-- Reads how many crops an identity has, and their cameras. Arguments: gallery, identity.
local gallery = find_gallery(argument(1))
if not gallery then return {0} end
local rows = rows_by(gallery.at, 'identity', argument(2), 0, -1)
local found, seen = {#rows}, {}
for _, row in ipairs(rows) do
  local camera = redis.call('HGET', crop_key(gallery.at, row), 'camera')
  if camera and not seen[camera] then
    seen[camera] = true
    found[#found + 1] = camera
  end
end
return found
