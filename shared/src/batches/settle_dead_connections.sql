with
-- connections whose function is gone, with a mail that was handed over; the delivery is locked first, as in the gate,
-- and one that the gate has in hand right now settles there
dead as (
    select c.account_id, c.slot, c.delivery_id
    from nightshift.smtp_connections c
    join nightshift.deliveries d on d.id = c.delivery_id
    where c.leased_until <= clock_timestamp()
    order by c.delivery_id
    for update of d skip locked
),
settled as (
    update nightshift.deliveries d
    set state = case policy.name
            when 'count_as_sent' then 'sent'
            when 'resend' then 'deferred'
            else 'uncertain'
        end,
        settled_at = case when policy.name = 'count_as_sent' then now() end,
        next_attempt_at = case when policy.name = 'resend' then d.attempted_at + interval '20 minutes' end,
        reply = 'the function ended between handing the mail over and recording the answer'
    from dead
    join nightshift.deliveries mail on mail.id = dead.delivery_id
    left join nightshift.campaigns c on c.id = mail.campaign_id
    left join nightshift.single_mails m on m.delivery_id = mail.id
    cross join lateral (select coalesce(c.uncertain_policy, m.uncertain_policy, 'hold') as name) as policy
    where d.id = dead.delivery_id
        and d.state = 'sending'
    returning d.id
),
freed as (
    update nightshift.smtp_connections s
    set delivery_id = null,
        lease_token = null,
        leased_until = null
    from dead
    where s.account_id = dead.account_id
        and s.slot = dead.slot
        and s.delivery_id = dead.delivery_id
    returning s.slot
)
select count(*) as "settled!"
from settled, (select count(*) from freed) as every_connection
