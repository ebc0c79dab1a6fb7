-- Reads the next crops of an archive, and keeps it for longer. Arguments: gallery, generation, name,
-- for how long, milliseconds, after, limit, bytes of pictures after which a page ends.
-- Answers false where it was given up.
local at, name = at_generation(argument(1), argument(2)), argument(3)
local own = at .. 'archive:' .. name
local deadline = redis.call('ZSCORE', at .. 'archives', name)
if not deadline or tonumber(deadline) < now_ms() then return false end
redis.call('ZADD', at .. 'archives', text(now_ms() + argument(4)), name)
local newest, side = unpack(redis.call('HMGET', own, 'newest', 'side'))
local after, limit = argument(5), tonumber(argument(6))
local rows = {}
for _, key in ipairs({at .. 'rows', own .. ':ghosts'}) do
  for _, row in ipairs(
    redis.call('ZRANGEBYSCORE', key, '(' .. after, newest, 'LIMIT', 0, limit)
  ) do
    rows[#rows + 1] = row
  end
end
table.sort(rows, function(one, other) return tonumber(one) < tonumber(other) end)
local found, bytes = {}, 0
for number = 1, math.min(limit, #rows) do
  local row = rows[number]
  local key = crop_key(at, row)
  local picture = redis.call('HGET', key, 'picture')
  local identity = redis.call('HGET', own .. ':identities', row)
  local values = redis.call('HMGET', key, unpack(SEALED))
  found[number] = {
    row, values, identity,
    redis.call('HMGET', key, 'vector:' .. side, 'sum:' .. side), picture,
    redis.call('HGET', key, 'sum:picture'),
    -- What was removed meanwhile is found by nothing any more.
    redis.call('ZSCORE', at .. 'rows', row) and not_found_by(at, row, values) or ''
  }
  bytes = bytes + (picture and #picture or 0)
  if bytes > tonumber(argument(7)) then break end
end
return found
