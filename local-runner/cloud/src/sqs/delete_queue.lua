-- ARGV[2]: name. Answers 1, or nothing without such a queue.
if not exists() then
    return false
end
unlink_messages()
redis.call('UNLINK', queue .. 'attributes')
redis.call('ZREM', KEYS[2] .. 'queues', ARGV[2])
redis.call('HSET', KEYS[2] .. 'deleted', ARGV[2], text(clock()))
return 1
