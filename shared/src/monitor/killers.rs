//! Batches that end every function that works on them: halved, down to the one mail that does it.

use sqlx::{PgConnection, PgPool};

use super::FRUITLESS_CLAIMS;

/// What became of a killing batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halved {
    /// Some of its open mails are in another batch now, and both start afresh.
    Moved {
        /// The other batch.
        to: i64,
        /// Mails that moved.
        deliveries: usize,
    },
    /// Its only mail is given up, for a person to look at: refused, cause `poison`.
    Held {
        /// The mail.
        delivery_id: i64,
    },
    /// Nothing was open in it any more.
    Finished,
}

/// Cuts a batch in two that was claimed [`FRUITLESS_CLAIMS`] times without an outcome. `None` when it is not such a
/// batch (any more), when somebody has it in hand, or when one of its mails is in flight and must be settled first.
///
/// A mail is held only where it was alone in its batch for all those claims. One that is merely the last open mail gets
/// a batch of its own first, because the claims that count against the batch may be its neighbours' doing.
///
/// One transaction, in the gate's lock order: the batch, then its deliveries by id. While it holds the batch nobody can
/// claim it; a holder from before has lost its lease, so it cannot pass the gate.
pub async fn halve(db: &PgPool, batch_id: i64) -> Result<Option<Halved>, sqlx::Error> {
    let mut tx = db.begin().await?;
    if !lock_batch(&mut tx, batch_id).await? {
        return Ok(None);
    }
    let deliveries = lock_deliveries(&mut tx, batch_id).await?;
    if deliveries.iter().any(|delivery| delivery.in_flight) {
        return Ok(None);
    }
    let open: Vec<i64> = deliveries.iter().filter(|delivery| delivery.open).map(|delivery| delivery.id).collect();
    let halved = match open.as_slice() {
        [] => Halved::Finished,
        [only] if deliveries.len() == 1 => {
            hold(&mut tx, *only).await?;
            Halved::Held { delivery_id: *only }
        }
        several => {
            let moving = &several[several.len() / 2..];
            let to = move_to_new_batch(&mut tx, batch_id, moving).await?;
            Halved::Moved { to, deliveries: moving.len() }
        }
    };
    start_afresh(&mut tx, batch_id).await?;
    tx.commit().await?;
    Ok(Some(halved))
}

async fn lock_batch(db: &mut PgConnection, batch_id: i64) -> Result<bool, sqlx::Error> {
    let locked = sqlx::query_scalar!(
        r#"
        select id
        from nightshift.batches
        where id = $1
            and finished_at is null
            and fruitless_claims >= $2
            and (leased_until is null or leased_until <= clock_timestamp())
        for update skip locked
        "#,
        batch_id,
        FRUITLESS_CLAIMS,
    )
    .fetch_optional(db)
    .await?;
    Ok(locked.is_some())
}

struct Member {
    id: i64,
    open: bool,
    in_flight: bool,
}

async fn lock_deliveries(db: &mut PgConnection, batch_id: i64) -> Result<Vec<Member>, sqlx::Error> {
    sqlx::query_as!(
        Member,
        r#"
        select
            id,
            state in ('pending', 'deferred') as "open!",
            state = 'sending' as "in_flight!"
        from nightshift.deliveries
        where batch_id = $1
        order by id
        for update
        "#,
        batch_id,
    )
    .fetch_all(db)
    .await
}

async fn hold(db: &mut PgConnection, delivery_id: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.deliveries
        set state = 'refused',
            cause = 'poison',
            settled_at = now(),
            next_attempt_at = null,
            reply = 'held: functions in a row ended without a word while they worked on this mail alone'
        where id = $1
        "#,
        delivery_id,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn move_to_new_batch(db: &mut PgConnection, from: i64, moving: &[i64]) -> Result<i64, sqlx::Error> {
    let to = sqlx::query_scalar!(
        r#"
        insert into nightshift.batches (campaign_id, account_id, due_at)
        select campaign_id, account_id, due_at
        from nightshift.batches
        where id = $1
        returning id
        "#,
        from,
    )
    .fetch_one(&mut *db)
    .await?;
    sqlx::query!("update nightshift.deliveries set batch_id = $1 where id = any($2)", to, moving).execute(db).await?;
    Ok(to)
}

/// Forgets the claims that counted against the batch, and finishes it when nothing is open in it.
async fn start_afresh(db: &mut PgConnection, batch_id: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.batches
        set fruitless_claims = 0,
            lease_token = null,
            leased_until = null,
            finished_at = case
                when not exists (
                    select from nightshift.deliveries
                    where batch_id = $1
                        and state in ('pending', 'deferred')
                ) then now()
            end
        where id = $1
        "#,
        batch_id,
    )
    .execute(db)
    .await?;
    Ok(())
}
