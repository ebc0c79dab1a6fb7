-- For wrk: sends the bodies of files in turn, each with a number of its own at the end of its last
-- image, so that no crop is enrolled twice. Prints figures of the requests as a JSON object.
-- Arguments: the path of the call, the boundary of the forms, a number of this run, the files.
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
  print(string.format(
    '{"requests": %d, "failed": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}',
    summary.requests, failed, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
