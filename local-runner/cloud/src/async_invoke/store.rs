//! Asynchronous invocations in Redis: a hash for each, and one sorted set that says when each is due.
//!
//! Every step is one script, and the clock is always that of Redis. A claim hands out a token; a step of somebody whose
//! token is not the latest does nothing.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use redis::Script;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::lambda::RequestId;

/// An invocation that this process holds the lease of.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) request_id: RequestId,
    /// Logical id.
    pub(super) function: String,
    pub(super) payload: Bytes,
    /// Time since it was submitted.
    pub(super) age: Duration,
    /// Invocations that ended in a function error.
    pub(super) failures: u32,
    /// Times it was put off since then because there was no room.
    pub(super) throttles: u32,
    /// Set when the function is done with, and only the destination is left.
    pub(super) record: Option<String>,
    /// Changes with every claim and every step that ends one.
    pub(super) token: u64,
}

/// What there was to do.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) entries: Vec<Entry>,
    /// When the next invocation will be due; an hour when there is none.
    pub(super) next_due: Duration,
}

const IDLE: Duration = Duration::from_secs(3600);

const NOW: &str = "local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
";

/// Keys: due set, entry. Arguments: id, function, payload.
static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}redis.call('HSET', KEYS[2], 'function', ARGV[2], 'payload', ARGV[3], 'created', now, 'token', 0)
redis.call('ZADD', KEYS[1], now, ARGV[1])"
    ))
});

/// Keys: due set. Arguments: prefix of entries, most entries, lease in ms. Returns the wait in ms (-1: nothing) and the
/// entries. An id without a hash (removed by hand) is dropped.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}local claimed = {{}}
if tonumber(ARGV[2]) > 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])) do
    local key = ARGV[1] .. id
    if redis.call('EXISTS', key) == 1 then
      local token = redis.call('HINCRBY', key, 'token', 1)
      redis.call('ZADD', KEYS[1], now + ARGV[3], id)
      local e = redis.call('HMGET', key, 'function', 'payload', 'created', 'failures', 'throttles', 'record')
      table.insert(claimed, {{id, e[1], e[2], now - e[3], e[4] or '0', e[5] or '0', e[6] or '', token}})
    else
      redis.call('ZREM', KEYS[1], id)
    end
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local wait = -1
if first[2] then wait = math.max(0, first[2] - now) end
return {{wait, claimed}}"
    ))
});

/// Keys: due set, entry. Arguments: token, id, delay in ms, then the new counts; without them it renews the lease. With
/// them it ends the lease, so that a renewal that was on its way does nothing. Returns whether the lease was ours.
static PUT_OFF: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
if ARGV[4] then
  redis.call('HSET', KEYS[2], 'failures', ARGV[4], 'throttles', ARGV[5])
  redis.call('HINCRBY', KEYS[2], 'token', 1)
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
return 1"
    ))
});

/// Keys: due set, entry. Arguments: token, id.
static FINISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[2])
return 1",
    )
});

/// Keys: entry. Arguments: token, record.
static KEEP_RECORD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[2])
return 1",
    )
});

type Row = (String, String, Vec<u8>, u64, u32, u32, String, u64);

#[derive(Clone)]
pub(super) struct Store {
    connection: ConnectionManager,
    due: String,
    entries: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn connect(redis_url: &str, prefix: &str) -> anyhow::Result<Self> {
        let client = redis::Client::open(redis_url).context("the Redis URL for asynchronous invocations is invalid")?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_secs(1))
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(Duration::from_secs(5)));
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client, config)?,
            due: format!("{prefix}async:due"),
            entries: format!("{prefix}async:entry:"),
        })
    }

    pub(super) async fn add(&self, id: RequestId, function: &str, payload: &[u8]) -> anyhow::Result<()> {
        let mut script = ADD.key(&self.due);
        script.key(self.key(id)).arg(id.to_string()).arg(function).arg(payload);
        Ok(script.invoke_async(&mut self.connection.clone()).await?)
    }

    pub(super) async fn pending(&self) -> anyhow::Result<u64> {
        Ok(redis::cmd("ZCARD").arg(&self.due).query_async(&mut self.connection.clone()).await?)
    }

    pub(super) async fn claim(&self, most: usize, lease: Duration) -> anyhow::Result<Claimed> {
        let mut script = CLAIM.key(&self.due);
        script.arg(&self.entries).arg(most).arg(ms(lease));
        let (wait, rows): (i64, Vec<Row>) = script.invoke_async(&mut self.connection.clone()).await?;
        let entries = rows.into_iter().map(Self::entry).collect::<anyhow::Result<_>>()?;
        let next_due = u64::try_from(wait).map_or(IDLE, Duration::from_millis);
        Ok(Claimed { entries, next_due })
    }

    fn entry((id, function, payload, age, failures, throttles, record, token): Row) -> anyhow::Result<Entry> {
        Ok(Entry {
            request_id: id.parse().with_context(|| format!("{id} is no id of an invocation; remove it from Redis"))?,
            function,
            payload: payload.into(),
            age: Duration::from_millis(age),
            failures,
            throttles,
            record: Some(record).filter(|record| !record.is_empty()),
            token,
        })
    }

    /// Makes it due again after `delay`, with new counts.
    pub(super) async fn put_off(
        &self,
        entry: &Entry,
        failures: u32,
        throttles: u32,
        delay: Duration,
    ) -> anyhow::Result<()> {
        let mut script = self.step(&PUT_OFF, entry);
        script.arg(ms(delay)).arg(failures).arg(throttles);
        self.report(entry, script.invoke_async(&mut self.connection.clone()).await?);
        Ok(())
    }

    /// Keeps the lease while the invocation runs.
    pub(super) async fn renew(&self, entry: &Entry, lease: Duration) -> anyhow::Result<()> {
        let mut script = self.step(&PUT_OFF, entry);
        script.arg(ms(lease));
        Ok(script.invoke_async(&mut self.connection.clone()).await?)
    }

    pub(super) async fn finish(&self, entry: &Entry) -> anyhow::Result<()> {
        let script = self.step(&FINISH, entry);
        self.report(entry, script.invoke_async(&mut self.connection.clone()).await?);
        Ok(())
    }

    pub(super) async fn keep_record(&self, entry: &Entry, record: &str) -> anyhow::Result<()> {
        let mut script = KEEP_RECORD.key(self.key(entry.request_id));
        script.arg(entry.token).arg(record);
        self.report(entry, script.invoke_async(&mut self.connection.clone()).await?);
        Ok(())
    }

    fn step<'a>(&self, script: &'a Script, entry: &Entry) -> redis::ScriptInvocation<'a> {
        let mut script = script.key(&self.due);
        script.key(self.key(entry.request_id)).arg(entry.token).arg(entry.request_id.to_string());
        script
    }

    fn report(&self, entry: &Entry, ours: bool) {
        if !ours {
            tracing::warn!("asynchronous invocation {} was taken over by another runner", entry.request_id);
        }
    }

    fn key(&self, id: RequestId) -> String {
        format!("{}{id}", self.entries)
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
