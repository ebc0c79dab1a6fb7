-- A generation's crops and what finds them. `at` is where a generation's keys begin:
--   crop:<row>  hash: what is known of a crop and its `sum`, `picture` and `sum:picture`, and
--               `vector:<side>` and `sum:<side>`
--   rows        sorted set: every row id
--   ids         hash: row id by crop id
--   by          sorted set without scores: rows by sha256, identity, camera and external id
--   ages        sorted set: rows by when they were captured, or else enrolled, microseconds
--   names       sorted set without scores: identities
--   counts      hash: image_bytes, crops and cameras of an identity
--   staged      sorted set: rows that have a vector of the embedder being prepared
--   archives    sorted set: archives being read by when they are given up, milliseconds
local TEXTS = {
  'crop_id', 'sha256', 'identity', 'camera', 'captured_at', 'external_id', 'metadata',
  'content_type', 'image_bytes', 'created_at'
}
local SEALED = {unpack(TEXTS)}
SEALED[#SEALED + 1] = 'sum'
local PLACES = {}
for number, name in ipairs(TEXTS) do PLACES[name] = number end
local FOUND_BY = {'sha256', 'identity', 'camera', 'external_id'}

local function crop_key(at, row) return at .. 'crop:' .. row end

local function record_sum(row, values) return sum_of(row, values, #TEXTS) end

-- With its length before it no value is the beginning of another one.
local function found_under(name, value) return name .. ':' .. #value .. ':' .. value .. ':' end

local function found_at(name, value, row)
  return found_under(name, value) .. string.format('%016.0f', tonumber(row))
end

-- Row ids above `after`, in order.
local function rows_by(at, name, value, after, limit)
  local under = found_under(name, value)
  local members = redis.call(
    'ZRANGEBYLEX', at .. 'by', '(' .. found_at(name, value, after), '(' .. under .. ':',
    'LIMIT', 0, limit
  )
  local rows = {}
  for _, member in ipairs(members) do
    rows[#rows + 1] = text(tonumber(string.sub(member, -16)))
  end
  return rows
end

local function rows_after(key, after, limit)
  return redis.call('ZRANGEBYSCORE', key, '(' .. after, '+inf', 'LIMIT', 0, limit)
end

-- Counts a crop in (1) or out (-1).
local function count_identity(at, identity, camera, by)
  if not identity then return end
  local counts = at .. 'counts'
  local crops = redis.call('HINCRBY', counts, 'crops:' .. identity, by)
  if crops == 0 then
    redis.call('HDEL', counts, 'crops:' .. identity)
    redis.call('ZREM', at .. 'names', identity)
  elseif crops == 1 and by == 1 then
    redis.call('ZADD', at .. 'names', 0, identity)
  end
  if not camera then return end
  local seen = 'seen:' .. #identity .. ':' .. identity .. ':' .. camera
  local sightings = redis.call('HINCRBY', counts, seen, by)
  if sightings == 0 then
    redis.call('HDEL', counts, seen)
    if redis.call('HINCRBY', counts, 'cameras:' .. identity, -1) == 0 then
      redis.call('HDEL', counts, 'cameras:' .. identity)
    end
  elseif sightings == 1 and by == 1 then
    redis.call('HINCRBY', counts, 'cameras:' .. identity, 1)
  end
end

-- Stores a crop under a new row id, which it answers.
local function insert(at, side, crop, vector, picture)
  local row = text(redis.call('INCR', 'gmn:rows'))
  local fields, values = {'vector:' .. side, vector, 'sum:' .. side, crop.vector_sum}, {}
  for number, name in ipairs(TEXTS) do
    if crop[name] then
      values[number] = crop[name]
      fields[#fields + 1] = name
      fields[#fields + 1] = crop[name]
    end
  end
  fields[#fields + 1] = 'sum'
  fields[#fields + 1] = record_sum(row, values)
  if crop.elsewhere then
    redis.call('ZREM', 'gmn:strays', crop.crop_id)
    redis.call('HDEL', 'gmn:strays:galleries', crop.crop_id)
  elseif crop.content_type ~= '' then
    fields[#fields + 1] = 'picture'
    fields[#fields + 1] = picture
    fields[#fields + 1] = 'sum:picture'
    fields[#fields + 1] = crop.picture_sum
  end
  redis.call('HSET', crop_key(at, row), unpack(fields))
  redis.call('ZADD', at .. 'rows', row, row)
  redis.call('HSET', at .. 'ids', crop.crop_id, row)
  redis.call('ZADD', at .. 'ages', crop.age, row)
  for _, name in ipairs(FOUND_BY) do
    if crop[name] then redis.call('ZADD', at .. 'by', 0, found_at(name, crop[name], row)) end
  end
  count_identity(at, crop.identity, crop.camera, 1)
  redis.call('HINCRBY', at .. 'counts', 'image_bytes', crop.image_bytes)
  return row
end

-- How many crops more there are by their ids than by their rows.
local function without_row(at)
  return redis.call('HLEN', at .. 'ids') - redis.call('ZCARD', at .. 'rows')
end

-- By what a crop ought to be found and is not; `values` are those of TEXTS.
local function not_found_by(at, row, values)
  local missing = {}
  if values[1] and redis.call('HGET', at .. 'ids', values[1]) ~= row then
    missing[#missing + 1] = 'crop_id'
  end
  for _, name in ipairs(FOUND_BY) do
    local value = values[PLACES[name]]
    if value and not redis.call('ZSCORE', at .. 'by', found_at(name, value, row)) then
      missing[#missing + 1] = name
    end
  end
  return table.concat(missing, ', ')
end

-- Archives that are being read, with the newest row of each.
local function archives_of(at)
  local archives = {}
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', at .. 'archives', text(now_ms()), '+inf')) do
    local newest = redis.call('HGET', at .. 'archive:' .. name, 'newest')
    archives[#archives + 1] = {at = at .. 'archive:' .. name, newest = tonumber(newest)}
  end
  return archives
end

-- Of a crop that is taken out, the picture that lies elsewhere.
local function note_stray(gallery, key, crop_id, content_type, moment)
  if content_type == '' or redis.call('HEXISTS', key, 'picture') == 1 then return end
  redis.call('ZADD', 'gmn:strays', moment, crop_id)
  redis.call('HSET', 'gmn:strays:galleries', crop_id, gallery)
end

-- Takes a crop out and answers its id; while an archive is read that it belongs to, its hash stays.
local function take_out(gallery, at, row, archives, moment)
  local key = crop_key(at, row)
  local known = redis.call('HMGET', key, 'crop_id', 'content_type', 'image_bytes', unpack(FOUND_BY))
  local crop_id = known[1]
  note_stray(gallery, key, crop_id, known[2], moment)
  redis.call('ZREM', at .. 'rows', row)
  redis.call('HDEL', at .. 'ids', crop_id)
  redis.call('ZREM', at .. 'ages', row)
  redis.call('ZREM', at .. 'staged', row)
  for number, name in ipairs(FOUND_BY) do
    local value = known[3 + number]
    if value then redis.call('ZREM', at .. 'by', found_at(name, value, row)) end
  end
  count_identity(at, known[5], known[6], -1)
  redis.call('HINCRBY', at .. 'counts', 'image_bytes', text(0 - known[3]))
  local kept = false
  for _, archive in ipairs(archives) do
    if tonumber(row) <= archive.newest then
      redis.call('ZADD', archive.at .. ':ghosts', row, row)
      kept = true
    end
  end
  if not kept then redis.call('UNLINK', key) end
  return crop_id
end

-- Gives a crop another identity; archives that are being read remember the one it had.
local function relabel(at, row, old, new, archives)
  local key = crop_key(at, row)
  local camera = redis.call('HGET', key, 'camera')
  for _, archive in ipairs(archives) do
    if tonumber(row) <= archive.newest then
      redis.call('HSETNX', archive.at .. ':identities', row, old)
    end
  end
  redis.call('HSET', key, 'identity', new)
  redis.call('HSET', key, 'sum', record_sum(row, redis.call('HMGET', key, unpack(TEXTS))))
  redis.call('ZREM', at .. 'by', found_at('identity', old, row))
  redis.call('ZADD', at .. 'by', 0, found_at('identity', new, row))
  count_identity(at, old, camera, -1)
  count_identity(at, new, camera, 1)
end

-- Empties a batch of a generation that nothing shows any more; answers whether something is left.
local function empty_generation(gallery, at, limit, moment)
  local rows = redis.call('ZRANGE', at .. 'rows', 0, limit - 1)
  for _, row in ipairs(rows) do
    local key = crop_key(at, row)
    local crop_id, content_type = unpack(redis.call('HMGET', key, 'crop_id', 'content_type'))
    -- A damaged one may say nothing of itself.
    if crop_id then note_stray(gallery, key, crop_id, content_type, moment) end
    redis.call('UNLINK', key)
    redis.call('ZREM', at .. 'rows', row)
  end
  if #rows == limit then return true end
  for _, name in ipairs({'rows', 'ids', 'by', 'ages', 'names', 'counts', 'staged'}) do
    redis.call('UNLINK', at .. name)
  end
  return false
end
