//! `api`: control over HTTP for host applications, and the pages behind the links in mails.
//!
//! [`respond`] is the frame that every request passes, in this order: the route, the key and its scope, the bounds of size
//! and time, then the route's handler. Errors are problem documents (RFC 9457) that say what to do. What a route is, who may
//! use it and how it is documented stands once, in [`route::ROUTES`].

mod call;
mod campaigns;
mod idempotency;
pub mod openapi;
mod problem;
pub mod route;
mod unsubscribe;

use std::time::Duration;

use chrono::{DateTime, Utc};
use lambda_http::http::header;
use lambda_http::{Body, Request, RequestExt as _, Response};
use shared::api_keys::{self, ApiKey};
use shared::config::{self, ConfigError};
use shared::keys::Keys;
use shared::queue::Queue;
use sqlx::PgPool;
use tokio::time::timeout;

use call::{Call, Reply};
use problem::Problem;
use route::Access;

/// Largest body. Lambda takes events of 6 MB, in which a body stands as a JSON string; larger files come in pieces.
const MAX_BODY_BYTES: usize = 5 * 1024 * 1024;
/// The answer is there within this time. Longer than the gateway waits (30 s), nobody would read it.
const PATIENCE: Duration = Duration::from_secs(25);

/// What the function needs, made once per cold start. Nothing is connected yet.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// The database.
    pub db: PgPool,
    /// For unsubscribe links.
    pub keys: Keys,
    /// Rung when a campaign has something to do.
    pub campaigns_queue: Queue,
}

impl Ctx {
    /// Reads the environment.
    pub async fn from_env() -> Result<Self, ConfigError> {
        Ok(Self {
            db: shared::database::connect_lazily()?,
            keys: Keys::from_env()?,
            campaigns_queue: Queue::new(
                shared::queue::client_from_env().await,
                config::required("CAMPAIGNS_QUEUE_URL")?,
            ),
        })
    }
}

/// Answers a request that came at `now`. What creates something takes an `Idempotency-Key`; everything else is harmless
/// when it comes twice.
pub async fn respond(ctx: &Ctx, request: Request, now: DateTime<Utc>) -> Response<Body> {
    let answered = timeout(PATIENCE, answer(ctx, request, now)).await.unwrap_or_else(|_| Err(Problem::too_slow()));
    match answered {
        Ok(reply) => reply.into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn answer(ctx: &Ctx, request: Request, now: DateTime<Utc>) -> Result<Reply, Problem> {
    let (route, parameter) = route::find(request.method(), request.raw_http_path())?;
    let key = match route.access {
        Access::Everybody => None,
        Access::Key(needed) => {
            let key = authenticate(ctx, &request).await?;
            if key.scope < needed {
                return Err(Problem::forbidden(format!(
                    "this key may only {}; use one made with --scope {needed}",
                    key.scope
                )));
            }
            Some(key)
        }
    };
    let body: &[u8] = request.body().as_ref();
    if body.len() > MAX_BODY_BYTES {
        return Err(Problem::too_large(MAX_BODY_BYTES));
    }
    let call = Call::new(route, parameter, key, &request, now)?;
    (route.handler)(ctx, &call).await
}

/// The key that the request brings. Wrong, revoked and missing ones are told apart by nothing.
async fn authenticate(ctx: &Ctx, request: &Request) -> Result<ApiKey, Problem> {
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, key)| key.trim());
    api_keys::check(&ctx.db, presented).await?.ok_or_else(Problem::unauthorized)
}
