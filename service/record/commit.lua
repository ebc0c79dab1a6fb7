-- Makes changes together or not at all.
-- ARGV: the commit's id, the record's name, how many changes are kept, whether it removes ('1');
-- how many guards, puts, deletes and notes; then guards as key, '1' or '0' (absent), value; puts as
-- key, value; deletes as key; notes as kind, gallery, version, rows.
-- Keys are not declared: the record is one server's, not a cluster's.
local VALUES, ORDER, CHANGED, REMEMBERED_SECONDS = 'gmn:v:', 'gmn:order', 'gmn:changed', 300
local memory = 'gmn:commit:' .. ARGV[1]
-- A commit whose answer was lost is sent again under its id, and answered as it was then.
local past = redis.call('GET', memory)
if past then return past end
if redis.call('GET', 'gmn:epoch') ~= ARGV[2] then return 'another record' end
local place = 8
local function argument()
  place = place + 1
  return ARGV[place]
end
for _ = 1, tonumber(ARGV[5]) do
  local key, there, value = argument(), argument(), argument()
  local now = redis.call('GET', VALUES .. key)
  if (now and '1' or '0') ~= there or (now and now ~= value) then return 'conflict' end
end
-- A full server refuses a script at its first command that takes memory, unless one that takes none
-- came before.
if ARGV[4] == '1' then redis.call('DEL', memory) end
-- While a copy is made, which reads these keys again.
local copied = redis.call('EXISTS', CHANGED) == 1
for _ = 1, tonumber(ARGV[6]) do
  local key, value = argument(), argument()
  if value ~= '' then redis.call('SET', VALUES .. key, value) end
  if string.sub(key, 1, 1) ~= '!' then redis.call('ZADD', ORDER, 0, key) end
  if copied then redis.call('RPUSH', CHANGED, key) end
end
for _ = 1, tonumber(ARGV[7]) do
  local key = argument()
  redis.call('UNLINK', VALUES .. key)
  if string.sub(key, 1, 1) ~= '!' then redis.call('ZREM', ORDER, key) end
  if copied then redis.call('RPUSH', CHANGED, key) end
end
for _ = 1, tonumber(ARGV[8]) do
  local kind, gallery, version, rows = argument(), argument(), argument(), argument()
  local sequence = string.format('%.0f', redis.call('INCR', 'gmn:seq'))
  redis.call(
    'XADD', 'gmn:changes', 'MAXLEN', '~', ARGV[3], sequence .. '-0',
    'kind', kind, 'gallery', gallery, 'version', version, 'rows', rows
  )
end
redis.call('SET', memory, 'done', 'EX', REMEMBERED_SECONDS)
return 'done'
