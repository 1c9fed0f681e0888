-- Answers {visible, in flight, delayed, {attribute, value, …}}, or nothing without such a queue.
if not exists() then
    return false
end
local now = clock()
expire(now, 1000)
local due, later = text(now), '(' .. text(now)
return {
    redis.call('ZCOUNT', queue .. 'waiting', '-inf', due) + redis.call('ZCOUNT', queue .. 'received', '-inf', due),
    redis.call('ZCOUNT', queue .. 'received', later, '+inf'),
    redis.call('ZCOUNT', queue .. 'waiting', later, '+inf'),
    redis.call('HGETALL', queue .. 'attributes'),
}
