-- Reserve a request's cost on all meters, or on none. Counts as memory.py does; meter.py says what is counted.
-- KEYS: the lease, then one key per scope and kind. ARGV: the time in ms ('' for the server's own), the lease's id and
-- its time in ms, the meters, and the amounts in their order. A meter is five words: its kind (b: bucket, d: day,
-- m: month, c: places), its key's index, field, capacity, rate. Of the kind h is what leases under way hold of the
-- budgets whose key's index stands for the capacity: a sorted set of "lease day month amount", by when they expire.
-- Returns 1 or 0, the time, the day, the month, and what each meter holds now; of a refusal then, for each meter, how
-- much of that leases under way hold of a budget.

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

-- What a lease held of a budget is held no more; of a window that is over nothing is.
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
  if meter.kind == 'h' then
    meter.used, meter.budgets, meter.capacity = 0, KEYS[meter.capacity], math.huge
    local expired = redis.call('ZRANGEBYSCORE', meter.key, '-inf', now)
    for _, lease in ipairs(expired) do
      local of_day, of_month, amount = string.match(lease, ' (%d+) (%d+) (%d+)$')
      give_back(meter.budgets, 'dollars_per_day', of_day, tonumber(amount))
      give_back(meter.budgets, 'dollars_per_month', of_month, tonumber(amount))
    end
    if #expired > 0 then redis.call('ZREMRANGEBYSCORE', meter.key, '-inf', now) end
  elseif meter.kind == 'c' then
    redis.call('ZREMRANGEBYSCORE', meter.key, '-inf', now)
    meter.used = redis.call('ZCARD', meter.key)
  else
    local stored = redis.call('HMGET', meter.key, meter.field .. ':used', meter.field .. ':at', meter.field .. ':held')
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
      meter.held = tonumber(stored[3]) or 0
      local window = meter.kind == 'd' and day or month
      if window > meter.at then
        meter.used = 0
        meter.held = 0
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
  if fits and meter.kind == 'h' then
    if meter.amount > 0 then
      local lease = string.format('%s %.0f %.0f %.0f', lease_id, day, month, meter.amount)
      redis.call('ZADD', meter.key, now + lease_ms, lease)
      keep(meter.key, lease_ms)
    end
  elseif fits and meter.kind == 'c' then
    redis.call('ZADD', meter.key, now + lease_ms, lease_id)
    keep(meter.key, lease_ms)
    meter.used = meter.used + 1
  elseif fits then
    meter.used = meter.used + meter.amount
    redis.call('HSET', meter.key, meter.field .. ':used', string.format('%.0f', meter.used),
      meter.field .. ':at', string.format('%.0f', meter.at))
    if meter.held then
      redis.call('HSET', meter.key, meter.field .. ':held', string.format('%.0f', meter.held + meter.amount))
    end
    keep(meter.key, meter.rate > 0 and math.ceil(meter.used / meter.rate) + BUCKET_KEPT_MS or BUDGET_KEPT_MS)
  end
  if meter.kind ~= 'h' then answer[#answer + 1] = meter.used end
end
if not fits then
  for _, meter in ipairs(found) do
    if meter.kind ~= 'h' then answer[#answer + 1] = meter.held or 0 end
  end
end
return answer
