-- ARGV[2..]: pairs of attribute and value; an empty value removes the attribute. Answers 1, or nothing without such a queue.
if not exists() then
    return false
end
for i = 2, #ARGV, 2 do
    if ARGV[i + 1] == '' then
        redis.call('HDEL', queue .. 'attributes', ARGV[i])
    else
        redis.call('HSET', queue .. 'attributes', ARGV[i], ARGV[i + 1])
    end
end
redis.call('HSET', queue .. 'attributes', 'LastModifiedTimestamp', text(math.floor(clock() / 1000000)))
return 1
