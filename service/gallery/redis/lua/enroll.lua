-- Arguments: gallery, embedder, moment, the request's key, its digest ('' for none) and problems,
-- how many crops; then for each crop what is known of it as JSON, its vector and its picture.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local embedder, digest = argument(2), argument(5)
local request = gallery.key .. ':request:' .. argument(4)
local DAY = 86400
local NAMED_IN_WARNINGS = 3

local bound, name = unpack(redis.call('HMGET', gallery.key, 'embedder', 'name'))
if digest ~= '' then
  local happened = redis.call('GET', request)
  if happened then return refuse('happened', {request = happened, embedder = bound}) end
end
local rebound = bound ~= embedder
if rebound and redis.call('ZCARD', gallery.at .. 'rows') > 0 then
  return refuse('needs_reindex', {name = name, bound = bound})
end
local crops = {}
for number = 1, tonumber(argument(7)) do
  local first = 5 + 3 * number
  local crop = cjson.decode(argument(first))
  if redis.call('HEXISTS', gallery.at .. 'ids', crop.crop_id) == 1 then
    return redis.error_reply('ERR there is a crop ' .. crop.crop_id .. ' already')
  end
  crops[number] = {known = crop, vector = argument(first + 1), picture = argument(first + 2)}
end

-- What becomes of a crop whose bytes may be there already. `warned_of` of a duplicate are the fields
-- that it keeps though the request has others, of a new one the crops with the same bytes.
local function same_bytes(crop)
  local others = {}
  for _, row in ipairs(rows_by(gallery.at, 'sha256', crop.sha256, 0, -1)) do
    local crop_id, identity, camera, captured_at, external_id, metadata = unpack(redis.call(
      'HMGET', crop_key(gallery.at, row),
      'crop_id', 'identity', 'camera', 'captured_at', 'external_id', 'metadata'
    ))
    if (identity or nil) == crop.identity and (camera or nil) == crop.camera then
      local kept = {}
      for _, field in ipairs({
        {'captured_at', captured_at}, {'external_id', external_id}, {'metadata', metadata}
      }) do
        local given = crop[field[1]]
        if given and given ~= field[2] then kept[#kept + 1] = field[1] end
      end
      return {crop_id = crop_id, duplicate = true, warned_of = kept}
    end
    if #others < NAMED_IN_WARNINGS then others[#others + 1] = crop_id end
  end
  return {crop_id = crop.crop_id, duplicate = false, warned_of = others}
end

local landed, rows, kept = {}, {}, {}
for number, crop in ipairs(crops) do
  local one = same_bytes(crop.known)
  if not one.duplicate then
    one.row = insert(gallery.at, gallery.side, crop.known, crop.vector, crop.picture)
    rows[#rows + 1] = one.row
  end
  landed[number] = one
  kept[number] = {one.crop_id, one.duplicate, one.warned_of}
end
local version = gallery.version
if rebound then
  redis.call('HSET', gallery.key, 'embedder', embedder)
  seal_gallery(gallery.id)
  note('gallery_changed', gallery.id, version)
end
if #rows > 0 then
  version = raise_version(gallery)
  note('added', gallery.id, version, rows)
end
if digest ~= '' then
  local happened = {digest = digest, version = version, landed = kept, problems = argument(6)}
  redis.call('SET', request, cjson.encode(happened), 'EX', DAY)
end
return answer({version = version, landed = landed})
