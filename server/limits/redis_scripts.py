"""The quotas of all gateways in Redis: its keys, and the scripts that change them, each at once.

    <prefix>:{tenant-7}:requests         when the bucket is full again, seconds since 1970; absent or past: it is
    <prefix>:{tenant-7}:key_ab:tokens    the same, of a key by its id, which is no secret
    <prefix>:{tenant-7}:open             the open requests, each with the time until which it counts

Time is Redis's own, so that gateways need not agree on it, unless the first argument says what time it is. A bucket is
changed by seconds: what is drawn of it, divided by what it gains in a second. Its key stays for a minute after it is
full, so that what it holds never depends on the clock by which Redis removes keys.

Open requests are leased. A gateway renews those it has; those of one that was killed end with their lease.
"""

from __future__ import annotations

# Lua writes numbers with 14 digits unless told otherwise, which leaves a tenth of a millisecond of a time of today.
_NOW = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end
local function store(key, full_at)
  if full_at > now then
    redis.call('SET', key, string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000) + 60000)
  else
    redis.call('DEL', key)
  end
end
local function to_full(key)
  return math.max(0, tonumber(redis.call('GET', key) or now) - now)
end
"""

# KEYS: buckets, then sets of open requests.
# ARGV: now or '', the number of buckets, a bucket's size and the tolerance in seconds, the request's name, its lease,
# for each key the seconds to draw, or how many may be open; and for each bucket the seconds that must be there.
# Returns {1 if all was taken, the seconds until each bucket is full, how many were open in each set}, as strings.
TAKE = (
    _NOW
    + """
local buckets, size, name, lease = tonumber(ARGV[2]), ARGV[3] + ARGV[4], ARGV[5], tonumber(ARGV[6])
local granted, state = 1, {}
for at, key in ipairs(KEYS) do
  if at <= buckets then
    state[at] = to_full(key)
    if state[at] + ARGV[6 + #KEYS + at] > size then granted = 0 end
  else
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.6f', now))
    state[at] = redis.call('ZCARD', key)
    if state[at] >= tonumber(ARGV[6 + at]) then granted = 0 end
  end
end
if granted == 1 then
  for at, key in ipairs(KEYS) do
    if at <= buckets then
      state[at] = state[at] + ARGV[6 + at]
      store(key, now + state[at])
    else
      redis.call('ZADD', key, string.format('%.6f', now + lease), name)
      redis.call('PEXPIRE', key, math.ceil(lease * 1000))
    end
  end
end
local answer = {tostring(granted)}
for at = 1, #KEYS do answer[at + 1] = string.format('%.6f', state[at]) end
return answer
"""
)

# KEYS and the first arguments as of TAKE: now, the number of buckets, the request's name; then the seconds to draw of
# each bucket, whether or not they are there.
GIVE_BACK = (
    _NOW
    + """
local buckets = tonumber(ARGV[2])
for at, key in ipairs(KEYS) do
  if at <= buckets then
    store(key, now + to_full(key) + ARGV[3 + at])
  else
    redis.call('ZREM', key, ARGV[3])
  end
end
"""
)

# KEYS: sets of open requests. ARGV: now, the lease, the request's name.
RENEW = (
    _NOW
    + """
local lease = tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.6f', now + lease), ARGV[3])
  redis.call('PEXPIRE', key, math.ceil(lease * 1000))
end
"""
)
