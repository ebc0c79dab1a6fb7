-- Keeps or revokes an API key. Arguments: key id, the key as JSON or '' to revoke it.
local changed
if argument(2) == '' then
  free_memory()
  changed = redis.call('HDEL', 'gmn:keys', argument(1))
else
  changed = redis.call('HSET', 'gmn:keys', argument(1), argument(2))
end
note('keys', 0, 0)
return answer({changed = changed})
