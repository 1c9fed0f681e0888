-- ARGV[2]: most messages, ARGV[3]: visibility timeout in seconds (empty: the queue's), ARGV[4]: ARN of this queue.
-- Answers {wait seconds, visibility seconds, dead-letter queue that got messages or '', over the limit 0|1,
-- {id, JSON, receive count, first received, sent, origin or ''}…}, times in microseconds; or nothing without such a queue.
local attributes = redis.call('HMGET', queue .. 'attributes', 'VisibilityTimeout',
    'ReceiveMessageWaitTimeSeconds', '-dead-letter-queue', '-max-receives')
if not attributes[1] then
    return false
end
local now = clock()
local oldest = expire(now, 100)
local wanted = tonumber(ARGV[2])
local visibility = tonumber(ARGV[3]) or tonumber(attributes[1])
local max_receives = tonumber(attributes[4])
local dead_letters = nil
if attributes[3] and max_receives then
    local target = KEYS[2] .. 'queue:' .. attributes[3] .. ':'
    -- A queue that buried in itself would lose the message with the last step.
    if target ~= queue and redis.call('EXISTS', target .. 'attributes') == 1 then
        dead_letters = target
    end
end

local answer = {tonumber(attributes[2]), visibility, '', 0}
local delivered = 0

local in_flight = redis.call('ZCOUNT', queue .. 'received', '(' .. text(now), '+inf')
if in_flight >= 120000 then
    answer[4] = 1
    return answer
end

local function bury(id, message)
    redis.call('HSET', dead_letters .. 'messages', id, message)
    redis.call('HSET', dead_letters .. 'origins', id, ARGV[4])
    redis.call('ZADD', dead_letters .. 'sent', redis.call('ZSCORE', queue .. 'sent', id), id)
    redis.call('ZADD', dead_letters .. 'waiting', text(now), id)
    forget(id)
    answer[3] = attributes[3]
end

local function deliver(id)
    local message = redis.call('HGET', queue .. 'messages', id)
    local sent = redis.call('ZSCORE', queue .. 'sent', id)
    if not message or not sent or tonumber(sent) <= oldest then
        forget(id)
        return
    end
    local count, first = string.match(redis.call('HGET', queue .. 'receipts', id) or '', '^(%d+) (%d+)')
    count = (tonumber(count) or 0) + 1
    first = first or text(now)
    if dead_letters and count > max_receives then
        bury(id, message)
        return
    end
    -- At least a microsecond, or this very call would find the message again.
    local visible_at = now + math.max(visibility * 1000000, 1)
    redis.call('ZREM', queue .. 'waiting', id)
    redis.call('ZADD', queue .. 'received', text(visible_at), id)
    redis.call('HSET', queue .. 'receipts', id, count .. ' ' .. first .. ' ' .. text(now))
    local origin = redis.call('HGET', queue .. 'origins', id) or ''
    table.insert(answer, {id, message, count, first, text(tonumber(sent)), origin})
    delivered = delivered + 1
end

-- More than one round only where messages were buried; their number is bounded too, so that no call takes long.
for _ = 1, 10 do
    local room = wanted - delivered
    local fresh = redis.call('ZRANGEBYSCORE', queue .. 'waiting', '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, room)
    local again = redis.call('ZRANGEBYSCORE', queue .. 'received', '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, room)
    if #fresh == 0 and #again == 0 then
        break
    end
    -- The two lists, merged: what has been visible longest comes first.
    local i, j = 1, 1
    for _ = 1, room do
        if i < #fresh and (j > #again or tonumber(fresh[i + 1]) <= tonumber(again[j + 1])) then
            deliver(fresh[i])
            i = i + 2
        elseif j < #again then
            deliver(again[j])
            j = j + 2
        end
    end
    if delivered >= wanted then
        break
    end
end
return answer
