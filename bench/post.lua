-- For wrk: posts the files named after `--` in turn and prints its metrics as one line of JSON.

local requests, at = {}, 0

function init(paths)
   wrk.headers["Content-Type"] = "image/png"
   for i, path in ipairs(paths) do
      local file = assert(io.open(path, "rb"))
      requests[i] = wrk.format("POST", nil, nil, file:read("*a"))
      file:close()
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local e = summary.errors
   print(string.format(
      '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      e.connect + e.read + e.write + e.status + e.timeout))
end
