with
-- in the order of the file, cut into pieces
failed as (
    select id, (row_number() over (order by id) - 1) / $3::integer as piece
    from (
        select id
        from nightshift.deliveries
        where campaign_id = $1
            and state = 'refused'
        order by id
        for update
    ) locked
),
made as (
    insert into nightshift.batches (campaign_id, account_id)
    select $1, $2
    from (select distinct piece from failed) pieces
    returning id
),
batches as (
    select id, row_number() over (order by id) - 1 as piece
    from made
)
-- without its token no earlier attempt can settle one any more
update nightshift.deliveries d
set state = 'pending',
    cause = null,
    batch_id = batches.id,
    attempts = 0,
    returned = 0,
    attempt_token = null,
    next_attempt_at = null,
    settled_at = null
from failed
join batches on batches.piece = failed.piece
where d.id = failed.id
