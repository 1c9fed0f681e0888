//! `health`: answers one question at one URL. Each part is asked at once and given two seconds in all, whatever hangs.
//!
//! - `GET /health` (and `/health/`): `{"status":"ok","checks":{"database":"ok","cache":"ok","worker":"ok"}}`. A part
//!   that is down is `"error"`, status `"degraded"`, HTTP 503; a worker that is only late is `"warning"`, `"degraded"`,
//!   HTTP 200. Why it is so stands in the log, not in the answer: strangers can read the answer.
//! - `GET /health/live`: this process answers; no I/O at all.
//! - `GET /health/ready`: database and cache answer.

mod worker;

use std::time::Duration;

use lambda_http::http::StatusCode;
use serde::Serialize;
use shared::config::{self, ConfigError};
use shared::queue::Queue;
use sqlx::PgPool;
use tokio::time::timeout;

pub use worker::{Lateness, ScheduledJob, judge_lateness};

/// Time for every check together; the answer is there within two seconds.
const PATIENCE: Duration = Duration::from_millis(1800);

/// What the function needs, made once per cold start. Nothing is connected yet.
#[derive(Debug, Clone)]
pub struct Ctx {
    db: PgPool,
    redis: redis::Client,
    queues: Vec<Queue>,
    jobs: Vec<ScheduledJob>,
    worker_name: String,
}

impl Ctx {
    /// Reads the environment.
    pub async fn from_env() -> Result<Self, ConfigError> {
        let client = shared::queue::client_from_env().await;
        let urls = config::required("HEALTH_QUEUE_URLS")?;
        let redis_url = config::required("REDIS_URL")?;
        Ok(Self {
            db: shared::database::connect_lazily()?,
            redis: redis::Client::open(redis_url)
                .map_err(|error| ConfigError::Invalid { name: "REDIS_URL", problem: error.to_string() })?,
            queues: urls.split(',').map(|url| Queue::new(client.clone(), url.trim())).collect(),
            jobs: worker::jobs_from(&config::required("HEALTH_SCHEDULES")?)?,
            worker_name: config::optional("HEALTH_WORKER_NAME").unwrap_or_else(|| "worker".to_owned()),
        })
    }
}

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// As it should be.
    Ok,
    /// Late, but there.
    Warning,
    /// Down.
    Error,
}

/// The parts that were asked, in the order they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks(Vec<(String, Condition)>);

impl Checks {
    fn worst(&self) -> Condition {
        self.0.iter().map(|(_, condition)| *condition).max().unwrap_or(Condition::Ok)
    }

    /// HTTP status and JSON body.
    pub fn answer(&self) -> (StatusCode, String) {
        let worst = self.worst();
        let code = if worst == Condition::Error { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let status = if worst == Condition::Ok { "ok" } else { "degraded" };
        // By hand, because the order of the checks is part of what people read.
        let checks: Vec<String> =
            self.0.iter().map(|(name, condition)| format!("{}:{}", quoted(name), quoted(condition))).collect();
        (code, format!("{{\"status\":\"{status}\",\"checks\":{{{}}}}}", checks.join(",")))
    }
}

fn quoted(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("text and unit variants always serialise")
}

/// Answers a request for `path`; `None` for a path that is none of ours.
pub async fn respond(ctx: &Ctx, path: &str) -> Option<(StatusCode, String)> {
    match path.trim_end_matches('/') {
        "/health/live" => Some((StatusCode::OK, r#"{"status":"ok"}"#.to_owned())),
        "/health/ready" => {
            let (database, cache) = tokio::join!(database(ctx), cache(ctx));
            Some(Checks(vec![("database".to_owned(), database), ("cache".to_owned(), cache)]).answer())
        }
        "/health" => {
            let (database, cache, worker) = tokio::join!(database(ctx), cache(ctx), worker::check(ctx));
            let checks =
                vec![("database".to_owned(), database), ("cache".to_owned(), cache), (ctx.worker_name.clone(), worker)];
            Some(Checks(checks).answer())
        }
        _ => None,
    }
}

async fn database(ctx: &Ctx) -> Condition {
    let asked = sqlx::query_scalar::<_, i32>("select 1").fetch_one(&ctx.db);
    condition("database", within(async { asked.await.map(|_| ()).map_err(anyhow::Error::from) }).await)
}

async fn cache(ctx: &Ctx) -> Condition {
    let asked = async {
        let mut connection = ctx.redis.get_multiplexed_async_connection().await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(())
    };
    condition("cache", within(asked).await)
}

/// The work, unless it takes too long.
async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(anyhow::anyhow!("no answer within {} ms", PATIENCE.as_millis())),
    }
}

fn condition(part: &str, asked: anyhow::Result<()>) -> Condition {
    match asked {
        Ok(()) => Condition::Ok,
        Err(error) => {
            tracing::error!(check = part, "{part} is down: {error:#}");
            Condition::Error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(worker: Condition, database: Condition) -> Checks {
        Checks(vec![
            ("database".to_owned(), database),
            ("cache".to_owned(), Condition::Ok),
            ("worker".to_owned(), worker),
        ])
    }

    #[test]
    fn the_answer_has_the_shape_that_monitors_know() {
        let (code, body) = checks(Condition::Ok, Condition::Ok).answer();
        assert_eq!(code, 200);
        assert_eq!(body, r#"{"status":"ok","checks":{"database":"ok","cache":"ok","worker":"ok"}}"#);
    }

    #[test]
    fn a_late_worker_is_degraded_and_a_dead_part_is_unavailable() {
        let (code, body) = checks(Condition::Warning, Condition::Ok).answer();
        assert_eq!(code, 200);
        assert_eq!(body, r#"{"status":"degraded","checks":{"database":"ok","cache":"ok","worker":"warning"}}"#);
        let (code, body) = checks(Condition::Warning, Condition::Error).answer();
        assert_eq!(code, 503);
        assert_eq!(body, r#"{"status":"degraded","checks":{"database":"error","cache":"ok","worker":"warning"}}"#);
    }
}
