//! `Idempotency-Key`: a request that creates something may be repeated by a client that did not get the answer.

use lambda_http::http::StatusCode;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::call::{Call, Content, Reply};
use crate::problem::Problem;

/// Longest key that is taken.
const MAX_KEY_BYTES: usize = 200;
/// Old requests that one new one removes: more than one, so that the table shrinks.
const FORGOTTEN_AT_ONCE: i64 = 100;

/// Does `work` in a transaction and, where the call brings a key, keeps the reply in the same one: either both stand or
/// neither. The same call again gets that reply; one under way at the same moment is waited for. What fails is not kept,
/// so it may be corrected and sent again with the same key.
pub(crate) async fn once(
    db: &PgPool,
    call: &Call,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<Reply, Problem>,
) -> Result<Reply, Problem> {
    let mut tx = db.begin().await?;
    let named = match (call.header("idempotency-key"), &call.key) {
        (Some(name), Some(key)) => {
            if name.is_empty() || name.len() > MAX_KEY_BYTES {
                return Err(Problem::unreadable(format!(
                    "the Idempotency-Key must have 1 to {MAX_KEY_BYTES} characters; a new UUID for each thing will do"
                )));
            }
            Some((key.id, name))
        }
        _ => None,
    };
    if let Some((key_id, name)) = named
        && let Some(earlier) = claim(&mut tx, key_id, name, &call.fingerprint()).await?
    {
        return Ok(earlier);
    }
    let reply = work(&mut tx).await?;
    if let Some((key_id, name)) = named {
        keep(&mut tx, key_id, name, &reply).await?;
    }
    tx.commit().await?;
    Ok(reply)
}

/// Takes the key for this call, or returns what it was answered before. Waits for another transaction that has the key.
async fn claim(db: &mut PgConnection, key_id: i64, name: &str, hash: &[u8]) -> Result<Option<Reply>, Problem> {
    sqlx::query!(
        r#"
        delete from nightshift.idempotent_requests
        where (api_key_id, idempotency_key) in (
            select api_key_id, idempotency_key
            from nightshift.idempotent_requests
            where created_at < now() - interval '1 day'
            order by created_at
            limit $1
            for update skip locked
        )
        "#,
        FORGOTTEN_AT_ONCE,
    )
    .execute(&mut *db)
    .await?;
    let taken = sqlx::query!(
        r#"
        insert into nightshift.idempotent_requests (api_key_id, idempotency_key, request_hash)
        values ($1, $2, $3)
        on conflict do nothing
        "#,
        key_id,
        name,
        hash,
    )
    .execute(&mut *db)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let earlier = sqlx::query!(
        r#"
        select request_hash, status as "status!", response as "response!: Value"
        from nightshift.idempotent_requests
        where api_key_id = $1
            and idempotency_key = $2
        "#,
        key_id,
        name,
    )
    .fetch_optional(db)
    .await?
    .ok_or_else(|| Problem::conflict("another request with this Idempotency-Key has just failed; repeat this one"))?;
    if earlier.request_hash != hash {
        return Err(Problem::unprocessable(
            "this Idempotency-Key stands for another request; give each thing that you create a key of its own",
        ));
    }
    let status = u16::try_from(earlier.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    Ok(Some(Reply {
        status: status.unwrap_or(StatusCode::OK),
        content: Content::Json(earlier.response),
        replayed: true,
    }))
}

async fn keep(db: &mut PgConnection, key_id: i64, name: &str, reply: &Reply) -> Result<(), sqlx::Error> {
    // What creates something answers a program; pages are made anew.
    let Content::Json(body) = &reply.content else { return Ok(()) };
    sqlx::query!(
        r#"
        update nightshift.idempotent_requests
        set status = $3,
            response = $4
        where api_key_id = $1
            and idempotency_key = $2
        "#,
        key_id,
        name,
        i32::from(reply.status.as_u16()),
        body,
    )
    .execute(db)
    .await?;
    Ok(())
}
