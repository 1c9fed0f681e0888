-- ARGV[2..]: for each message its id, its JSON, its size in bytes, and its delay in milliseconds (-1: the queue's).
-- Answers for each message 0, or the queue's size limit that it exceeds; or nothing without such a queue.
local attributes = redis.call('HMGET', queue .. 'attributes', 'DelaySeconds', 'MaximumMessageSize')
if not attributes[1] then
    return false
end
local now = clock()
local limit = tonumber(attributes[2])
local answer = {}
for i = 2, #ARGV, 4 do
    local id, message, size, delay = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
    if size > limit then
        table.insert(answer, limit)
    else
        if delay < 0 then
            delay = tonumber(attributes[1]) * 1000
        end
        -- One microsecond apart, so that a batch keeps its order.
        local position = (i - 2) / 4
        redis.call('HSET', queue .. 'messages', id, message)
        redis.call('ZADD', queue .. 'sent', text(now + position), id)
        redis.call('ZADD', queue .. 'waiting', text(now + delay * 1000 + position), id)
        table.insert(answer, 0)
    end
end
return answer
