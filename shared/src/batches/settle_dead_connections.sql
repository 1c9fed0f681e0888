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
update nightshift.deliveries d
set state = 'uncertain',
    reply = format(
        'the function ended between handing the mail over on connection %s and recording the answer',
        dead.slot
    )
from dead
where d.id = dead.delivery_id
    and d.state = 'sending'
returning d.id
