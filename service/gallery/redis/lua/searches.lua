-- Reads a gallery's searches, oldest first. Arguments: gallery, subject.
local key = 'gmn:g:' .. argument(1)
local found = {}
for _, name in ipairs(redis.call('ZRANGE', key .. ':order:' .. argument(2), 0, -1)) do
  found[#found + 1] = redis.call('HGET', key .. ':searches:' .. argument(2), name)
end
return found
