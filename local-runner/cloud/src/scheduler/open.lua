-- Writes a tick down as due, once, whoever comes first. KEYS: schedule hash, open ticks, the tick.
-- ARGV: timing, due (ms), execution id, fire (1) or give up (0), seconds to remember a tick given up.
-- Returns 1 when this call wrote it, 0 when it was known or the schedule has changed meanwhile.
local schedule = redis.call('HMGET', KEYS[1], 'timing', 'planned_until')
if schedule[1] ~= ARGV[1] or tonumber(schedule[2]) >= tonumber(ARGV[2]) then
    return 0
end
redis.call('HSET', KEYS[1], 'planned_until', ARGV[2])
if ARGV[4] == '1' then
    redis.call('HSET', KEYS[3], 'state', 'due', 'execution', ARGV[3], 'attempts', 0)
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[2])
else
    redis.call('HSET', KEYS[3], 'state', 'expired', 'execution', ARGV[3], 'attempts', 0)
    redis.call('EXPIRE', KEYS[3], ARGV[5])
end
return 1
