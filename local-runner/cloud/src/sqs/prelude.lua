-- Stands before every script of this folder; `sqs.rs` describes the keys.
-- KEYS[1]: `<prefix>sqs:queue:<name>:`, KEYS[2]: `<prefix>sqs:`, ARGV[1]: key of the test clock's offset, or empty.

local queue = KEYS[1]

-- Microseconds since 1970. Redis' clock is the only one that counts, so runners need not agree on the time.
local function clock()
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
    if ARGV[1] ~= '' then
        now = now + (tonumber(redis.call('GET', ARGV[1])) or 0) * 1000
    end
    return now
end

-- Lua's own conversion keeps 14 digits; a time has 16.
local function text(number)
    return string.format('%.0f', number)
end

local function exists()
    return redis.call('EXISTS', queue .. 'attributes') == 1
end

local function forget(id)
    local known = redis.call('ZREM', queue .. 'sent', id)
    redis.call('ZREM', queue .. 'waiting', id)
    redis.call('ZREM', queue .. 'received', id)
    redis.call('HDEL', queue .. 'messages', id)
    redis.call('HDEL', queue .. 'receipts', id)
    redis.call('HDEL', queue .. 'origins', id)
    return known
end

-- Drops what is older than the queue's retention, at most `limit` messages, so that no call takes long.
local function expire(now, limit)
    local retention = tonumber(redis.call('HGET', queue .. 'attributes', 'MessageRetentionPeriod'))
    local oldest = now - retention * 1000000
    local expired = redis.call('ZRANGEBYSCORE', queue .. 'sent', '-inf', text(oldest), 'LIMIT', 0, limit)
    for _, id in ipairs(expired) do
        forget(id)
    end
    return oldest
end

local function unlink_messages()
    redis.call('UNLINK', queue .. 'sent', queue .. 'waiting', queue .. 'received',
        queue .. 'messages', queue .. 'receipts', queue .. 'origins')
end
