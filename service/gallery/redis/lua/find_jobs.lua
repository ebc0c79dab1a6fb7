-- Reads jobs as JSON, those that are there. Arguments: ids.
local found = {}
for number = 1, #ARGV - OWN do
  local job = read_job(argument(number))
  if job then found[#found + 1] = cjson.encode(job) end
end
return found
