//! The connection to Redis: bounded waiting, and it heals by itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{Result, SqsError};

/// Longest wait for Redis in one operation. Longer makes clients wait for an error, shorter gives up on a Redis that is saving.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that all operations share.
pub(super) struct Link {
    client: redis::Client,
    current: Mutex<Current>,
}

struct Current {
    generation: u64,
    connection: ConnectionManager,
}

impl Link {
    /// Connects, or says where no Redis answered.
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let invalid = |error: RedisError| SqsError::Unavailable {
            address: "the configured URL".to_owned(),
            reason: format!("it is no Redis URL such as redis://127.0.0.1:6379/0 ({error})"),
        };
        let client = redis::Client::open(url).map_err(invalid)?;
        let connection = manager(&client).map_err(invalid)?;
        let current = Mutex::new(Current { generation: 0, connection });
        let link = Self { client, current };
        let () = link.patiently(async |connection| redis::cmd("PING").query_async(connection).await).await?;
        Ok(link)
    }

    /// Runs commands within [`PATIENCE`]. After a failure that is not the commands' own, the next call gets a fresh connection:
    /// the manager reconnects by itself only after I/O errors, not when Redis refused it while loading its data.
    pub(super) async fn patiently<T>(
        &self,
        commands: impl AsyncFnOnce(&mut ConnectionManager) -> Result<T, RedisError>,
    ) -> Result<T> {
        let (generation, mut connection) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            (current.generation, current.connection.clone())
        };
        let error = match tokio::time::timeout(PATIENCE, commands(&mut connection)).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => {
                if !matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension) {
                    self.reconnect(generation);
                }
                error.to_string()
            }
            Err(_) => {
                self.reconnect(generation);
                format!("no answer within {} s", PATIENCE.as_secs())
            }
        };
        Err(self.unavailable(&error))
    }

    fn reconnect(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == generation
            && let Ok(connection) = manager(&self.client)
        {
            *current = Current { generation: generation + 1, connection };
        }
    }

    /// The error for whatever else is wrong with this Redis.
    pub(super) fn unavailable(&self, reason: &str) -> SqsError {
        SqsError::Unavailable {
            address: self.client.get_connection_info().addr().to_string(),
            reason: reason.to_owned(),
        }
    }
}

/// A connection that is made with the first command.
fn manager(client: &redis::Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(3)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(500))
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(3)));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
