-- Counts a call against all KEYS, or against none of them. Four numbers for each key in ARGV:
--   0, microseconds between calls, calls at once, -      a rate (GCRA: the key holds when its bucket is full again)
--   1, the most, microseconds of a window, the cost      a budget (the key holds what was spent, and ends with its window)
-- Answers {0, 0}, or {the key that refuses longest, for how many microseconds}.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local which, longest, full = 0, 0, {}
for i = 1, #KEYS do
  local kind, a, b, c = ARGV[4 * i - 3], tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local held, wait = tonumber(redis.call('GET', KEYS[i]) or 0), 0
  if kind == '0' then
    full[i] = math.max(held, now) + a
    wait = full[i] - now - a * b
  elseif held + c > a then
    local left = redis.call('PTTL', KEYS[i])
    wait = left > 0 and left * 1000 or b
  end
  if wait > longest then
    which, longest = i, wait
  end
end
if which > 0 then
  return {which, longest}
end
for i = 1, #KEYS do
  local b, c = tonumber(ARGV[4 * i - 1]), ARGV[4 * i]
  if full[i] then
    redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000) + 1)
  elseif redis.call('SET', KEYS[i], c, 'NX', 'PX', math.max(math.ceil(b / 1000), 1)) == false then
    redis.call('INCRBY', KEYS[i], c)
  end
end
return {0, 0}
