-- ARGV[2]: name, ARGV[3]: `create` or `ensure`, ARGV[4]: how many attributes were given, then pairs: the given ones, the defaults.
-- Answers `created`, `exists`, `deleted recently` or `differs <attribute>`.
local now = clock()
local seconds = text(math.floor(now / 1000000))
local given = tonumber(ARGV[4])
local ensure = ARGV[3] == 'ensure'

if exists() and not ensure then
    for i = 1, given do
        local name, value = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
        if redis.call('HGET', queue .. 'attributes', name) ~= value then
            return 'differs ' .. name
        end
    end
    return 'exists'
end

local deleted = tonumber(redis.call('HGET', KEYS[2] .. 'deleted', ARGV[2]))
if deleted and now < deleted + 60000000 and not ensure then
    return 'deleted recently'
end

local answer = exists() and 'exists' or 'created'
local created = redis.call('HGET', queue .. 'attributes', 'CreatedTimestamp') or seconds
local purged = redis.call('HGET', queue .. 'attributes', '-purged')
local wanted = {}
for i = 5, #ARGV, 2 do
    if wanted[ARGV[i]] == nil then
        wanted[ARGV[i]] = ARGV[i + 1]
    end
end
redis.call('DEL', queue .. 'attributes')
for name, value in pairs(wanted) do
    redis.call('HSET', queue .. 'attributes', name, value)
end
redis.call('HSET', queue .. 'attributes', 'CreatedTimestamp', created, 'LastModifiedTimestamp', seconds)
if purged then
    redis.call('HSET', queue .. 'attributes', '-purged', purged)
end
redis.call('HDEL', KEYS[2] .. 'deleted', ARGV[2])
redis.call('ZADD', KEYS[2] .. 'queues', 0, ARGV[2])
return answer
