-- Which of these rows are there. Arguments: gallery, row ids.
local gallery = find_gallery(argument(1))
local found = {}
if not gallery then return found end
for number = 2, #ARGV - OWN do
  if redis.call('ZSCORE', gallery.at .. 'rows', argument(number)) then
    found[#found + 1] = argument(number)
  end
end
return found
