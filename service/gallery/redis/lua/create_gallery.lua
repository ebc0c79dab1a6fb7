-- Arguments: name, embedder, created at, and SETTINGS ('' for none).
local name = argument(1)
if redis.call('HEXISTS', 'gmn:names', name) == 1 then return refuse('taken') end
local id = text(redis.call('INCR', 'gmn:galleries'))
redis.call(
  'HSET', 'gmn:g:' .. id, 'name', name, 'embedder', argument(2), 'created_at', argument(3),
  'retention_days', argument(4), 'calibration', argument(5), 'retention_from', argument(6),
  'version', 0, 'generation', 1, 'side', 1, 'numbers', 1
)
seal_gallery(id)
redis.call('HSET', 'gmn:names', name, id)
note('gallery_created', id, 0)
return answer({gallery = id})
