with
-- what each account already has on the queue or under work; what was rung for later is neither
load as (
    select
        account_id,
        campaign_id is null as single,
        count(*) filter (
            where leased_until > now()
                or (rung_at > now() - make_interval(secs => $1) and rung_at <= now())
        ) as outstanding
    from nightshift.batches
    where finished_at is null
    group by account_id, campaign_id is null
),
-- what could be worked on now, numbered within its campaign
due as (
    select
        b.id,
        b.account_id,
        b.campaign_id,
        b.campaign_id is null as single,
        -- as many as its connections can keep busy; a single mail needs one, and one is kept for those
        case
            when b.campaign_id is null then least($2, a.max_connections)
            else least($2, (greatest(a.max_connections - 1, 1) + $4::integer - 1) / $4::integer)
        end as most,
        row_number() over (partition by b.account_id, b.campaign_id order by b.id) as turn
    from nightshift.batches b
    join nightshift.smtp_accounts a on a.id = b.account_id
    left join nightshift.campaigns c on c.id = b.campaign_id
    where b.finished_at is null
        and b.due_at <= now()
        and (b.leased_until is null or b.leased_until <= now())
        and (b.rung_at is null or b.rung_at <= now() - make_interval(secs => $1))
        and (c.id is null or (c.status = 'sending' and c.id <> all($5)))
        and (a.paused_until is null or a.paused_until <= now())
),
-- the campaigns of an account take turns; its single mails are counted apart and never wait for them
placed as (
    select
        id,
        account_id,
        campaign_id,
        single,
        most,
        row_number() over (partition by account_id, single order by turn, campaign_id) as place
    from due
)
select placed.id, placed.campaign_id
from placed
join load on load.account_id = placed.account_id and load.single = placed.single
where placed.place <= placed.most - load.outstanding
order by placed.single desc, placed.place, placed.account_id
limit $3
