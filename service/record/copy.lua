-- A part of a copy of the record, and what commits have changed since the copy was begun: their keys
-- with values of this moment.
-- ARGV: the copy's name, the record's name; where the last part ended, empty to begin; how many
-- changed keys were read; about how many keys to answer of each.
-- Answers where this part ends, 'end' for the last one; how many keys were changed; keys with values,
-- empty ones of indexes. Nothing where another copy was begun, or this one has paused for too long.
local VALUES, ORDER, CHANGED, KEPT_SECONDS = 'gmn:v:', 'gmn:order', 'gmn:changed', 300
local phase, cursor = string.match(ARGV[3], '(%a*)(%d*)')
local read, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
if phase == '' then
  -- It comes first, as a full server refuses a script at its first command that takes memory.
  redis.call('DEL', CHANGED)
  redis.call('RPUSH', CHANGED, ARGV[1])
  phase, cursor = 'order', '0'
end
if redis.call('LINDEX', CHANGED, 0) ~= ARGV[1] or redis.call('GET', 'gmn:epoch') ~= ARGV[2] then
  return {}
end
redis.call('EXPIRE', CHANGED, KEPT_SECONDS)
local keys = {}
if phase == 'order' then
  local found = redis.call('ZSCAN', ORDER, cursor, 'COUNT', limit)
  cursor = found[1]
  for each = 1, #found[2], 2 do keys[#keys + 1] = found[2][each] end
  if cursor == '0' then phase = 'lookups' end
elseif phase == 'lookups' then
  local found = redis.call('SCAN', cursor, 'MATCH', VALUES .. '!*', 'COUNT', limit)
  cursor = found[1]
  for _, one in ipairs(found[2]) do keys[#keys + 1] = string.sub(one, #VALUES + 1) end
  if cursor == '0' then phase = 'end' end
end
for _, one in ipairs(redis.call('LRANGE', CHANGED, read + 1, read + limit)) do
  keys[#keys + 1] = one
end
local answer = {phase .. cursor, redis.call('LLEN', CHANGED) - 1}
for _, key in ipairs(keys) do
  answer[#answer + 1] = key
  answer[#answer + 1] = redis.call('GET', VALUES .. key)
    or (redis.call('ZSCORE', ORDER, key) and '')
end
return answer
