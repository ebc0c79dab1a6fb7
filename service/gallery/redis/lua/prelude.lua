-- Begins every script.
--
-- ARGV: the write's id ('' for one that only reads), the epoch, how many changes are kept; then the
-- script's own arguments. Keys are made here and not declared: which they are depends on a gallery's
-- generation, and the record is one server, not a cluster.
local REMEMBERED_SECONDS = 300
local OWN = 3

local memory = 'gmn:write:' .. ARGV[1]
if ARGV[1] ~= '' then
  -- A write whose answer was lost is sent again under its id, and answered as it was then.
  local past = redis.call('GET', memory)
  if past then return past end
  if redis.call('GET', 'gmn:epoch') ~= ARGV[2] then return '{"refused":"another_database"}' end
end

local function argument(number) return ARGV[OWN + number] end

local function text(number) return string.format('%.0f', number) end

local function now_us()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

local function now_ms() return math.floor(now_us() / 1000) end

local function answer(reply)
  local said = cjson.encode(reply)
  redis.call('SET', memory, said, 'EX', REMEMBERED_SECONDS)
  return said
end

-- Nothing was changed, so that nothing needs to be remembered.
local function refuse(why, more)
  more = more or {}
  more.refused = why
  return cjson.encode(more)
end

-- A full server refuses a script at its first command that takes memory, unless one that takes none
-- came before: what frees memory begins with this.
local function free_memory() redis.call('DEL', memory) end

-- Appends to the change stream; answers the entry's number.
local function note(kind, gallery, version, rows)
  local sequence = text(redis.call('INCR', 'gmn:seq'))
  redis.call(
    'XADD', 'gmn:changes', 'MAXLEN', '~', ARGV[3], sequence .. '-0',
    'kind', kind, 'gallery', gallery, 'version', version, 'rows', table.concat(rows or {}, ',')
  )
  return sequence
end

local function at_generation(id, generation) return 'gmn:g:' .. id .. ':' .. generation .. ':' end

-- What a row of values comes to; with their lengths before them, two rows differ. sums.py computes it
-- again for crops.
local function sum_of(first, values, how_many)
  local parts = {first}
  for number = 1, how_many do
    local value = values[number]
    parts[#parts + 1] = value and #value .. ':' .. value or '-'
  end
  return redis.sha1hex(table.concat(parts, ','))
end

-- What is known of a gallery and changes by its settings or embedder alone.
local GALLERY = {
  'generation', 'side', 'name', 'embedder', 'staged', 'staged_side', 'created_at', 'retention_days',
  'calibration', 'retention_from'
}
local SETTINGS = {'retention_days', 'calibration', 'retention_from'}

local function damaged(what) error('DAMAGED[' .. what .. ']') end

-- Whoever sets one of GALLERY calls this.
local function seal_gallery(id)
  local key = 'gmn:g:' .. id
  redis.call('HSET', key, 'sum', sum_of(id, redis.call('HMGET', key, unpack(GALLERY)), #GALLERY))
end

-- A gallery: its hash, and where the crops of its generation lie; nil where it was deleted.
local function find_gallery(id)
  local key = 'gmn:g:' .. id
  local values = redis.call('HMGET', key, unpack(GALLERY))
  local version, sum = unpack(redis.call('HMGET', key, 'version', 'sum'))
  if sum and sum ~= sum_of(id, values, #GALLERY) then
    damaged('what is known of gallery ' .. id .. ' is not what was written')
  end
  local generation, side = values[1], values[2]
  if not generation then
    if version then damaged('gallery ' .. id .. ' has no generation') end
    return nil
  end
  return {
    id = id,
    key = key,
    generation = generation,
    side = side,
    version = version,
    at = at_generation(id, generation)
  }
end

-- Removes what a gallery learned from its searches.
local function drop_calibrations(key)
  for _, subject in ipairs(redis.call('HKEYS', key .. ':subjects')) do
    redis.call('UNLINK', key .. ':searches:' .. subject, key .. ':order:' .. subject)
  end
  redis.call('UNLINK', key .. ':subjects', key .. ':published')
end

local function raise_version(gallery) return text(redis.call('HINCRBY', gallery.key, 'version', 1)) end

local function chore(gallery, generation, what) return gallery .. ':' .. generation .. ':' .. what end
