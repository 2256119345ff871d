-- Reserve a request's cost on all meters, or on none. Counts as memory.py does; meter.py says what is counted.
-- KEYS: the lease, then one key per scope and kind. ARGV: the time in ms ('' for the server's own), the lease's id and
-- its time in ms, the meters, and the amounts in their order. A meter is five words: its kind (b: bucket, d: day,
-- m: month, c: places), its key's index, field, capacity, rate.
-- Returns 1 or 0, the time, the day, the month, and what each meter holds now.

local SETBACK_MS = 60000
local DAY_MS = 86400000
local BUDGET_KEPT_MS = 40 * DAY_MS
local BUCKET_KEPT_MS = 60000

local function month_of(day)
  local shifted = day + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return 12 * (400 * era + year) + math.floor((5 * of_year + 2) / 153) + 2
end

local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local day = math.floor(now / DAY_MS)
local month = month_of(day)
local lease_id, lease_ms = ARGV[2], tonumber(ARGV[3])

local found, fits = {}, true
local amounts = string.gmatch(ARGV[5], '%d+')
for kind, key, field, capacity, rate in string.gmatch(ARGV[4], '(%a) (%d+) ([%a_]+) (%d+) (%d+)') do
  local meter = {
    kind = kind, key = KEYS[tonumber(key)], field = field,
    capacity = tonumber(capacity), rate = tonumber(rate), amount = tonumber(amounts()),
  }
  if meter.kind == 'c' then
    redis.call('ZREMRANGEBYSCORE', meter.key, '-inf', now)
    meter.used = redis.call('ZCARD', meter.key)
  else
    local stored = redis.call('HMGET', meter.key, meter.field .. ':used', meter.field .. ':at')
    meter.used = tonumber(stored[1]) or 0
    if meter.kind == 'b' then
      meter.at = tonumber(stored[2]) or now
      local elapsed = now - meter.at
      if elapsed > 0 then
        meter.used = math.max(0, meter.used - elapsed * meter.rate)
        meter.at = now
      elseif elapsed < -SETBACK_MS then
        meter.at = now
      end
    else
      meter.at = tonumber(stored[2]) or 0
      local window = meter.kind == 'd' and day or month
      if window > meter.at then
        meter.used = 0
        meter.at = window
      end
    end
  end
  if meter.amount > 0 and meter.used + meter.amount > meter.capacity then fits = false end
  found[#found + 1] = meter
end

local answer = { fits and 1 or 0, now, day, month }
if fits then redis.call('SET', KEYS[1], string.format('%.0f %.0f %.0f', now + lease_ms, day, month), 'PX', lease_ms) end
for _, meter in ipairs(found) do
  if fits and meter.kind == 'c' then
    redis.call('ZADD', meter.key, now + lease_ms, lease_id)
    keep(meter.key, lease_ms)
    meter.used = meter.used + 1
  elseif fits then
    meter.used = meter.used + meter.amount
    redis.call('HSET', meter.key, meter.field .. ':used', string.format('%.0f', meter.used),
      meter.field .. ':at', string.format('%.0f', meter.at))
    keep(meter.key, meter.rate > 0 and math.ceil(meter.used / meter.rate) + BUCKET_KEPT_MS or BUDGET_KEPT_MS)
  end
  answer[#answer + 1] = meter.used
end
return answer
