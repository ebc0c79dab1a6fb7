-- Arguments: gallery, moment, how many at most; then what to remove: 'crops' and ids, 'identity' and
-- a name, or 'older' and a moment, microseconds. A full server lets this through.
local gallery = find_gallery(argument(1))
if not gallery then return refuse('gone') end
local moment, limit, how = argument(2), tonumber(argument(3)), argument(4)
local rows, known = {}, {}
if how == 'crops' then
  for number = 5, #ARGV - OWN do
    local row = redis.call('HGET', gallery.at .. 'ids', argument(number))
    if row and not known[row] then
      rows[#rows + 1] = row
      known[row] = true
    end
  end
elseif how == 'identity' then
  rows = rows_by(gallery.at, 'identity', argument(5), 0, limit)
else
  rows = redis.call(
    'ZRANGEBYSCORE', gallery.at .. 'ages', '-inf', '(' .. argument(5), 'LIMIT', 0, limit
  )
end
if #rows == 0 then return refuse('nothing') end
free_memory()
table.sort(rows, function(one, other) return tonumber(one) < tonumber(other) end)
local archives, crop_ids = archives_of(gallery.at), {}
for number, row in ipairs(rows) do
  crop_ids[number] = take_out(gallery.id, gallery.at, row, archives, moment)
end
local version = raise_version(gallery)
local sequence = note('removed', gallery.id, version, rows)
-- Without these a restore would bring back what somebody asked to be gone.
for _, crop_id in ipairs(crop_ids) do
  redis.call('ZADD', gallery.key .. ':tombstones', sequence, crop_id)
end
return answer({version = version, rows = rows, crop_ids = crop_ids})
