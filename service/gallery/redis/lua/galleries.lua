-- Reads galleries with what is counted of them. Arguments: ids; without any, all of them.
local ids = {}
for number = 1, #ARGV - OWN do ids[#ids + 1] = argument(number) end
if #ids == 0 then ids = redis.call('HVALS', 'gmn:names') end
local found = {}
for _, id in ipairs(ids) do
  local gallery = find_gallery(id)
  if gallery then
    found[#found + 1] = {
      id,
      redis.call('ZCARD', gallery.at .. 'rows'),
      redis.call('ZCARD', gallery.at .. 'names'),
      redis.call('HGET', gallery.at .. 'counts', 'image_bytes') or '0',
      redis.call(
        'HMGET', gallery.key, 'name', 'embedder', 'staged', 'version', 'created_at',
        'retention_days', 'recalibration'
      )
    }
  end
end
return found
