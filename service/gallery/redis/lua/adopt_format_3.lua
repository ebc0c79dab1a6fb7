-- Turns a record of format 1 or 2 into one of format 3, in which `calibration` is a setting in the
-- place of `recalibration`; what galleries had learned is dropped. Answers how many had. A gallery
-- that was damaged keeps its sum, which does not fit afterwards either.
local IN_2 = {
  'generation', 'side', 'name', 'embedder', 'staged', 'staged_side', 'created_at', 'retention_days',
  'recalibration'
}
if tonumber(redis.call('GET', 'gmn:format')) >= 3 then return '0' end
local dropped = 0
for _, id in ipairs(redis.call('HVALS', 'gmn:names')) do
  local key = 'gmn:g:' .. id
  local values, sum = redis.call('HMGET', key, unpack(IN_2)), redis.call('HGET', key, 'sum')
  local whole = values[1] and (not sum or sum == sum_of(id, values, #IN_2))
  if (redis.call('HGET', key, 'calibration') or '') ~= '' then dropped = dropped + 1 end
  if redis.call('EXISTS', key) == 1 then
    local mode = redis.call('HGET', key, 'recalibration') == '0' and 'off' or 'on'
    redis.call('HSET', key, 'calibration', mode, 'retention_from', 'captured')
    redis.call('HDEL', key, 'recalibration')
    if whole then seal_gallery(id) end
  end
end
redis.call('SET', 'gmn:format', 3)
return text(dropped)
