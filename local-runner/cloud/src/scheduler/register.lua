-- Makes a schedule known, keeps its anchor while its timing is unchanged, and passes over what happened while it was
-- disabled. KEYS: schedule hash, open ticks. ARGV: timing, now (ms), enabled (1/0), prefix of tick keys.
-- Returns anchor (ms) and the instant up to which ticks are planned (ms).
local now = tonumber(ARGV[2])
local function drop_open()
    for _, due in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
        redis.call('DEL', ARGV[4] .. due)
    end
    redis.call('DEL', KEYS[2])
end
local known = redis.call('HMGET', KEYS[1], 'timing', 'enabled')
if known[1] ~= ARGV[1] then
    drop_open()
    redis.call('HSET', KEYS[1], 'timing', ARGV[1], 'anchor', ARGV[2], 'planned_until', ARGV[2])
elseif known[2] == '0' or ARGV[3] == '0' then
    drop_open()
    if tonumber(redis.call('HGET', KEYS[1], 'planned_until')) < now then
        redis.call('HSET', KEYS[1], 'planned_until', ARGV[2])
    end
end
redis.call('HSET', KEYS[1], 'enabled', ARGV[3])
return redis.call('HMGET', KEYS[1], 'anchor', 'planned_until')
