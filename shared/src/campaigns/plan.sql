with
-- one recipient per address: the first in the file
chosen as (
    select distinct on (email_normalised) position, email, email_normalised, fields
    from nightshift.recipients
    where campaign_id = $1
    order by email_normalised, position
),
-- in the order of the file, cut into pieces
numbered as (
    select *, (row_number() over (order by position) - 1) / $3::integer as piece
    from chosen
),
made as (
    insert into nightshift.batches (campaign_id, account_id)
    select $1, $2
    from (select distinct piece from numbered) pieces
    returning id
),
batches as (
    select id, row_number() over (order by id) - 1 as piece
    from made
),
planned as (
    insert into nightshift.deliveries (campaign_id, batch_id, email, email_normalised, fields, state, settled_at)
    select
        $1,
        batches.id,
        numbered.email,
        numbered.email_normalised,
        numbered.fields,
        case when suppressed.yes then 'suppressed' else 'pending' end,
        case when suppressed.yes then now() end
    from numbered
    join batches on batches.piece = numbered.piece
    cross join lateral (
        select exists (
            select from nightshift.suppressions s
            where s.email_normalised = numbered.email_normalised
                and s.list in ('', $4)
        ) as yes
    ) as suppressed
    order by numbered.position
    returning state
)
select
    (select count(*) from nightshift.recipients where campaign_id = $1) as "recipients!",
    count(*) as "deliveries!",
    count(*) filter (where state = 'suppressed') as "suppressed!",
    (select count(*) from made) as "batches!"
from planned
