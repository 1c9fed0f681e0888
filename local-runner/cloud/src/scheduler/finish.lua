-- Closes a tick. KEYS: schedule hash, open ticks, the tick. ARGV: due (ms), state, now (ms), seconds to remember.
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'state', ARGV[2], 'finished', ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[4])
if ARGV[2] == 'fired' then
    local last = redis.call('HGET', KEYS[1], 'last_due')
    if not last or tonumber(last) <= tonumber(ARGV[1]) then
        redis.call('HSET', KEYS[1], 'last_due', ARGV[1], 'last_fired', ARGV[3])
    end
end
return 1
