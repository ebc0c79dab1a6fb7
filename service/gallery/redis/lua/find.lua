-- Reads one crop. Arguments: gallery, crop id, fields; without fields what is known of it.
local gallery = find_gallery(argument(1))
local row = gallery and redis.call('HGET', gallery.at .. 'ids', argument(2))
if not row then return false end
local fields = {}
for number = 3, #ARGV - OWN do fields[#fields + 1] = argument(number) end
if #fields == 0 then fields = SEALED end
return {row, redis.call('HMGET', crop_key(gallery.at, row), unpack(fields))}
