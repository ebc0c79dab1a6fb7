-- For wrk: sends the bodies of files in turn, each with a number of its own at the end of its last
-- image, so that no crop is enrolled twice. Prints how many were answered and how many failed, and in
-- microseconds the whole duration, the median and the 99th percentile.
-- Arguments: the path that is asked, the end of every body, the round, the files.
local heads, sent = {}, 0

function init(arguments)
  path, ending, round = arguments[1], "\r\n--" .. arguments[2] .. "--\r\n", arguments[3]
  headers = { ["Content-Type"] = "multipart/form-data; boundary=" .. arguments[2] }
  for place = 4, #arguments do
    local file = assert(io.open(arguments[place], "rb"))
    heads[#heads + 1] = file:read("*a")
    file:close()
  end
end

function request()
  sent = sent + 1
  local number = string.format("%s.%d", round, sent)
  return wrk.format("POST", path, headers, heads[sent % #heads + 1] .. number .. ending)
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local median, rare = latency:percentile(50), latency:percentile(99)
  print("answered", summary.requests, failed, summary.duration, median, rare)
end
