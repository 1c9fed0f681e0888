with
-- what is left to do in each campaign, and the latest thing that was done; finished batches are not read again
unfinished as (
    select
        b.campaign_id,
        count(*) filter (where d.state in ('pending', 'deferred', 'sending')) as open,
        coalesce(
            min(greatest(b.due_at, d.next_attempt_at)) filter (where d.state in ('pending', 'deferred')),
            min(b.due_at)
        ) as next_due,
        -- an unsubscription is no progress of ours
        max(greatest(d.attempted_at, d.settled_at)) filter (where d.state not in ('suppressed', 'cancelled'))
            as last_outcome
    from nightshift.batches b
    left join nightshift.deliveries d on d.batch_id = b.id
    where b.finished_at is null
        and b.campaign_id in (select id from nightshift.campaigns where status = 'sending')
    group by b.campaign_id
),
batches as (
    select
        campaign_id,
        max(finished_at) as last_finished,
        count(*) filter (where finished_at is null) as unfinished,
        count(*) filter (where finished_at is null and leased_until > now()) as held,
        count(*) filter (where finished_at is null and leased_until <= now()) as lost,
        count(*) filter (where finished_at is null and fruitless_claims >= $1) as killing
    from nightshift.batches
    where campaign_id in (select id from nightshift.campaigns where status = 'sending')
    group by campaign_id
)
select
    c.id,
    c.name,
    c.status = 'scheduled' as "scheduled!",
    greatest(c.start_at, c.started_at) as "started_at",
    greatest(unfinished.last_outcome, batches.last_finished) as "last_outcome",
    unfinished.next_due as "next_due?",
    coalesce(unfinished.open, 0) as "open!",
    coalesce(batches.unfinished, 0) as "unfinished_batches!",
    coalesce(batches.held, 0) as "held_batches!",
    coalesce(batches.lost, 0) as "lost_batches!",
    coalesce(batches.killing, 0) as "killing_batches!",
    a.name as account,
    a.paused_until,
    a.pause_reason
from nightshift.campaigns c
join nightshift.smtp_accounts a on a.id = c.account_id
left join unfinished on unfinished.campaign_id = c.id
left join batches on batches.campaign_id = c.id
where c.status in ('scheduled', 'sending')
order by c.id
