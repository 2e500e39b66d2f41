-- What wrk has counted, on one line: requests answered, microseconds, failed ones, and latencies in microseconds.
function done(summary, latency, _)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   print(string.format("figures %d %d %d %d %d %d", summary.requests, summary.duration, failed,
      latency:percentile(50), latency:percentile(99), latency.max))
end
