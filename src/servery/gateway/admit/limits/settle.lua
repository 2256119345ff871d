-- Count what a request used instead of what it reserved, once. KEYS as in reserve.lua. ARGV: the time in ms ('' for the
-- server's own), the lease's id, the meters as there, and for each of them what was used more than was reserved (less,
-- where it is negative), for one of the kind h what was reserved. Returns 1, or 0 for a lease that is no more.

local SETBACK_MS = 60000

-- As in reserve.lua.
local function give_back(key, field, window, amount)
  local stored = redis.call('HMGET', key, field .. ':at', field .. ':held')
  if stored[1] == window and stored[2] then
    redis.call('HSET', key, field .. ':held', string.format('%.0f', math.max(0, tonumber(stored[2]) - amount)))
  end
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local expires, windows = 0, {}
local lease = redis.call('GET', KEYS[1])
if lease then
  expires, windows.d, windows.m = string.match(lease, '^(%d+) (%d+) (%d+)$')
  expires = tonumber(expires)
  redis.call('DEL', KEYS[1])
end

local changes = string.gmatch(ARGV[4], '%-?%d+')
for kind, index, field, capacity, leak in string.gmatch(ARGV[3], '(%a) (%d+) ([%a_]+) (%d+) (%d+)') do
  local key, rate, more = KEYS[tonumber(index)], tonumber(leak), tonumber(changes())
  if kind == 'h' then
    local held = windows.d and string.format('%s %s %s %.0f', ARGV[2], windows.d, windows.m, more)
    if held and redis.call('ZREM', key, held) == 1 then
      give_back(KEYS[tonumber(capacity)], 'dollars_per_day', windows.d, more)
      give_back(KEYS[tonumber(capacity)], 'dollars_per_month', windows.m, more)
    end
  elseif kind == 'c' then
    redis.call('ZREM', key, ARGV[2])
  elseif expires > now and more ~= 0 then
    local stored = redis.call('HMGET', key, field .. ':used', field .. ':at')
    local used, last = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
    if kind == 'b' then
      local elapsed = now - last
      if elapsed > 0 then
        used = math.max(0, used - elapsed * rate)
        last = now
      elseif elapsed < -SETBACK_MS then
        last = now
      end
      used = math.max(0, used + more)
      redis.call('HSET', key, field .. ':used', string.format('%.0f', used), field .. ':at', string.format('%.0f', last))
      local kept = math.ceil(used / rate) + 60000
      if redis.call('PTTL', key) < kept then redis.call('PEXPIRE', key, kept) end
    elseif stored[2] == windows[kind] then
      redis.call('HINCRBY', key, field .. ':used', more)
    end
  end
end
return expires > now and 1 or 0
