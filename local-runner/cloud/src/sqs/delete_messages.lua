-- ARGV[2..]: message ids. Answers how many there were, or nothing without such a queue.
if not exists() then
    return false
end
local deleted = 0
for i = 2, #ARGV do
    deleted = deleted + forget(ARGV[i])
end
return deleted
