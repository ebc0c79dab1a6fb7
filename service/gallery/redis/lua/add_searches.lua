-- Adds searches, of which the newest are kept. Arguments: gallery, subject, how many are kept; then keys
-- and rows, oldest first. A gallery's keys for them:
--   subjects           hash: how many searches a subject has had
--   searches:<subject> hash: rows by key
--   order:<subject>    sorted set: keys by when they came
local gallery = find_gallery(argument(1))
if not gallery then return refuse('nothing') end
local subject, kept = argument(2), tonumber(argument(3))
local rows, order = gallery.key .. ':searches:' .. subject, gallery.key .. ':order:' .. subject
for number = 4, #ARGV - OWN, 2 do
  local place = text(redis.call('HINCRBY', gallery.key .. ':subjects', subject, 1))
  redis.call('ZADD', order, place, argument(number))
  redis.call('HSET', rows, argument(number), argument(number + 1))
end
for _, key in ipairs(redis.call('ZRANGE', order, 0, -kept - 1)) do
  redis.call('ZREM', order, key)
  redis.call('HDEL', rows, key)
end
return answer({kept = redis.call('ZCARD', order)})
