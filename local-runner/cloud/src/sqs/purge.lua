-- ARGV[2]: `once a minute` refuses a second purge within 60 seconds.
-- Answers how many messages there were, -1 when refused, or nothing without such a queue.
if not exists() then
    return false
end
local now = clock()
if ARGV[2] == 'once a minute' then
    local purged = tonumber(redis.call('HGET', queue .. 'attributes', '-purged'))
    if purged and now < purged + 60000000 then
        return -1
    end
    redis.call('HSET', queue .. 'attributes', '-purged', text(now))
end
expire(now, 1000)
local purged = redis.call('ZCARD', queue .. 'sent')
unlink_messages()
return purged
