-- Keeps or forgets a snapshot. Arguments: gallery, snapshot id, the snapshot as JSON or '' to forget.
local gallery = find_gallery(argument(1))
if not gallery then return argument(3) == '' and refuse('nothing') or refuse('gone') end
local kept, changed = gallery.key .. ':snapshots', nil
if argument(3) == '' then
  free_memory()
  changed = redis.call('HDEL', kept, argument(2))
else
  changed = redis.call('HSET', kept, argument(2), argument(3))
end
return answer({changed = changed})
