-- Reads ranges of keys with their values, of one moment. ARGV: for each range its start, its end
-- (exclusive), how many at most, and '1' for the opposite order.
local found = {}
for first = 1, #ARGV, 4 do
  local low, high = '[' .. ARGV[first], '(' .. ARGV[first + 1]
  local keys
  if ARGV[first + 3] == '1' then
    keys = redis.call('ZREVRANGEBYLEX', 'gmn:order', high, low, 'LIMIT', 0, ARGV[first + 2])
  else
    keys = redis.call('ZRANGEBYLEX', 'gmn:order', low, high, 'LIMIT', 0, ARGV[first + 2])
  end
  local one = {}
  for _, key in ipairs(keys) do
    one[#one + 1] = key
    one[#one + 1] = redis.call('GET', 'gmn:v:' .. key) or ''
  end
  found[#found + 1] = one
end
return found
