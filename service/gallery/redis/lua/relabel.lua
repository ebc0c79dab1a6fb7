-- Arguments: gallery, identity, its new name, how many crops at most.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local old, new = argument(2), argument(3)
-- Under the same name nothing moves, and all of them are answered at once.
local limit = old == new and -1 or argument(4)
local rows = rows_by(gallery.at, 'identity', old, 0, limit)
if #rows == 0 then return refuse('nothing') end
local merged = redis.call('ZSCORE', gallery.at .. 'names', new) and true or false
if old ~= new then
  -- First of all: what is written is not taken back, and a new sum would make the damage good.
  for _, row in ipairs(rows) do
    local values = redis.call('HMGET', crop_key(gallery.at, row), unpack(SEALED))
    local sum = values[#SEALED]
    if sum and sum ~= record_sum(row, values) then
      damaged('crop ' .. (values[1] or row) .. ' is not what was written')
    end
  end
  local archives = archives_of(gallery.at)
  for _, row in ipairs(rows) do relabel(gallery.at, row, old, new, archives) end
end
local version = raise_version(gallery)
note('relabelled', gallery.id, version, rows)
return answer({version = version, rows = rows, merged = merged})
