-- ARGV[2..]: pairs of message id and seconds. Answers for each `ok`, `not in flight` or `too long`, or nothing without such a queue.
if not exists() then
    return false
end
local now = clock()
local answer = {}
for i = 2, #ARGV, 2 do
    local id, timeout = ARGV[i], tonumber(ARGV[i + 1]) * 1000000
    local visible_at = tonumber(redis.call('ZSCORE', queue .. 'received', id))
    local received = string.match(redis.call('HGET', queue .. 'receipts', id) or '', '(%d+)$')
    if not visible_at or visible_at <= now or not received then
        table.insert(answer, 'not in flight')
    elseif now + timeout > tonumber(received) + 43200 * 1000000 + 1000000 then
        -- A second of grace: the largest timeout is asked for a moment after the receive.
        table.insert(answer, 'too long')
    else
        redis.call('ZADD', queue .. 'received', text(now + timeout), id)
        table.insert(answer, 'ok')
    end
end
return answer
