-- Reads galleries with what is counted of them. Arguments: ids; without any, all of them.
local ids = {}
for number = 1, #ARGV - OWN do ids[#ids + 1] = argument(number) end
local all = #ids == 0
if all then
  ids = redis.call('HVALS', 'gmn:names')
  local there = 0
  for id = 1, tonumber(redis.call('GET', 'gmn:galleries') or 0) do
    there = there + redis.call('EXISTS', 'gmn:g:' .. id)
  end
  if there ~= #ids then damaged(there .. ' galleries have ' .. #ids .. ' names') end
end
local found = {}
for _, id in ipairs(ids) do
  local gallery = find_gallery(id)
  if all and not gallery then damaged('gallery ' .. id .. ' has a name and is gone') end
  if gallery then
    local name = redis.call('HGET', gallery.key, 'name') or ''
    if redis.call('HGET', 'gmn:names', name) ~= id then
      damaged('gallery ' .. id .. ' is not found by its name')
    end
    found[#found + 1] = {
      id,
      redis.call('ZCARD', gallery.at .. 'rows'),
      redis.call('ZCARD', gallery.at .. 'names'),
      redis.call('HGET', gallery.at .. 'counts', 'image_bytes') or '0',
      redis.call(
        'HMGET', gallery.key, 'name', 'embedder', 'staged', 'version', 'created_at',
        unpack(SETTINGS)
      )
    }
  end
end
return found
