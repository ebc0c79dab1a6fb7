-- Does a batch of a chore. Arguments: gallery, generation, what, moment, how many at most. Answers
-- 'more', 'held' (not yet: an archive is read, or it is still prepared) or 'done'.
-- A full server lets this through.
local gallery, generation, what, moment = argument(1), argument(2), argument(3), argument(4)
local limit = tonumber(argument(5))
local name = chore(gallery, generation, what)
local at = at_generation(gallery, generation)
local state = redis.call('HGET', 'gmn:chores', name)
if not state then return 'done' end
free_memory()

local function done()
  redis.call('HDEL', 'gmn:chores', name)
  return 'done'
end

local archive = string.match(what, '^archive:(.*)$')
if archive then
  local deadline = redis.call('ZSCORE', at .. 'archives', archive)
  if deadline and tonumber(deadline) >= now_ms() then return 'held' end
  redis.call('ZREM', at .. 'archives', archive)
  local own, others = at .. 'archive:' .. archive, archives_of(at)
  local ghosts = redis.call('ZRANGE', own .. ':ghosts', 0, limit - 1)
  for _, row in ipairs(ghosts) do
    local wanted = false
    for _, other in ipairs(others) do
      if redis.call('ZSCORE', other.at .. ':ghosts', row) then wanted = true end
    end
    if not wanted then redis.call('UNLINK', crop_key(at, row)) end
    redis.call('ZREM', own .. ':ghosts', row)
  end
  if #ghosts == limit then return 'more' end
  redis.call('UNLINK', own, own .. ':ghosts', own .. ':identities')
  return done()
end

if #archives_of(at) > 0 then return 'held' end
if what == 'generation' then
  if tonumber(state) > now_ms() then return 'held' end
  redis.call('HSET', 'gmn:chores', name, 0)
  if empty_generation(gallery, at, limit, moment) then return 'more' end
  return done()
end

-- A side of vectors that is searched no more; how far this is stands in the chore.
local side = string.match(what, '^side:(.*)$')
local rows = rows_after(at .. 'rows', state, limit)
for _, row in ipairs(rows) do
  redis.call('HDEL', crop_key(at, row), 'vector:' .. side, 'sum:' .. side)
end
if #rows < limit then return done() end
redis.call('HSET', 'gmn:chores', name, rows[#rows])
return 'more'
