-- Reads what an index needs of crops. Arguments: gallery, which vectors ('searched' or 'staged'),
-- then 'after', a row and a limit, or 'rows' and row ids. Answers which generation and side that
-- was, how far it went, how many crops have an id and no row, and the crops with such a vector; of
-- 'after' also by what they cannot be found.
local gallery = find_gallery(argument(1))
if not gallery then return {'', '', 0} end
local staged = argument(2) == 'staged'
local side = staged and redis.call('HGET', gallery.key, 'staged_side') or gallery.side
local rows = {}
local all = argument(3) == 'after'
if all then
  rows = rows_after(gallery.at .. (staged and 'staged' or 'rows'), argument(4), argument(5))
else
  for number = 4, #ARGV - OWN do
    if redis.call('ZSCORE', gallery.at .. 'rows', argument(number)) then
      rows[#rows + 1] = argument(number)
    end
  end
end
local found = {
  gallery.generation .. ':' .. (side or ''), rows[#rows] or '', all and without_row(gallery.at) or 0
}
for _, row in ipairs(rows) do
  local key = crop_key(gallery.at, row)
  local values = redis.call('HMGET', key, unpack(SEALED))
  found[#found + 1] = {
    row, values, redis.call('HMGET', key, 'vector:' .. side, 'sum:' .. side),
    all and not_found_by(gallery.at, row, values) or ''
  }
end
return found
