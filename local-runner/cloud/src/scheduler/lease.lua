-- Hands out one open tick that is ready and hides it until the lease ends, so that two runners share the work and a
-- runner that dies loses nothing. KEYS: open ticks. ARGV: now (ms), lease (ms), prefix of tick keys.
-- Returns {due, execution id, attempt}, or {the instant at which the next one is ready}, or nothing.
local ready = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1)
if #ready == 0 then
    local later = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    if #later == 0 then
        return {}
    end
    return { later[2] }
end
local tick = ARGV[3] .. ready[1]
redis.call('ZADD', KEYS[1], tonumber(ARGV[1]) + tonumber(ARGV[2]), ready[1])
local attempt = redis.call('HINCRBY', tick, 'attempts', 1)
return { ready[1], redis.call('HGET', tick, 'execution'), tostring(attempt) }
