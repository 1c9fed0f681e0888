-- Makes a schedule known again where Redis has lost it; otherwise changes nothing. KEYS: schedule hash.
-- ARGV: timing, anchor (ms), the instant up to which ticks are planned (ms).
if redis.call('HGET', KEYS[1], 'timing') then
    return 0
end
redis.call('HSET', KEYS[1], 'timing', ARGV[1], 'anchor', ARGV[2], 'planned_until', ARGV[3], 'enabled', '1')
return 1
