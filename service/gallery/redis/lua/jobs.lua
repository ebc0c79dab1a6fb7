-- What the scripts of jobs share: a job is a hash, and its problems are texts by position.
local FINISHED = {done = true, failed = true, cancelled = true}

local function job_key(id) return 'gmn:job:' .. id end

local function read_job(id)
  local key = job_key(id)
  local fields = redis.call('HGETALL', key)
  if #fields == 0 then return nil end
  local job = {problems = redis.call('HLEN', key .. ':problems')}
  for number = 1, #fields, 2 do job[fields[number]] = fields[number + 1] end
  return job
end

local function set_state(id, state)
  redis.call('HSET', job_key(id), 'state', state)
  if FINISHED[state] then redis.call('ZREM', 'gmn:jobs:open', id) end
end
