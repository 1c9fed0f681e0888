//! What AWS refuses of a mapping.

use std::time::Duration;

use crate::bundle::{EventSource, Function};

/// Why AWS would not create the mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A message would come back while its function still works on it.
    #[error(
        "Queue visibility timeout: {queue_seconds} seconds is less than Function timeout: {function_seconds} seconds"
    )]
    VisibilityBelowTimeout {
        /// Of the queue.
        queue_seconds: u64,
        /// Of the function.
        function_seconds: u64,
    },
    /// `BatchSize` above 10 without a window.
    #[error("Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10")]
    LargeBatchWithoutWindow,
    /// `BatchSize` outside 1 to 10,000.
    #[error("BatchSize {0} must be between 1 and 10000")]
    BatchSize(u32),
    /// `MaximumBatchingWindowInSeconds` above 300.
    #[error("MaximumBatchingWindowInSeconds {0} must be between 0 and 300")]
    Window(u64),
    /// `MaximumConcurrency` outside 2 to 1,000.
    #[error("MaximumConcurrency {0} must be between 2 and 1000")]
    Concurrency(u32),
    /// `MaximumConcurrency` beyond what the function may run.
    #[error("MaximumConcurrency {maximum} must not exceed the function's reserved concurrency {reserved}")]
    ConcurrencyAboveReserved {
        /// Of the mapping.
        maximum: u32,
        /// Of the function.
        reserved: u32,
    },
}

/// Whether AWS would create this mapping for a queue with that visibility timeout.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(source: &EventSource, function: &Function, visibility: Duration) -> Result<(), MappingError> {
    let window = source.batching_window.as_secs();
    if !(1..=10_000).contains(&source.batch_size) {
        return Err(MappingError::BatchSize(source.batch_size));
    }
    if window > 300 {
        return Err(MappingError::Window(window));
    }
    if source.batch_size > 10 && window == 0 {
        return Err(MappingError::LargeBatchWithoutWindow);
    }
    if let Some(maximum) = source.max_concurrency {
        if !(2..=1000).contains(&maximum) {
            return Err(MappingError::Concurrency(maximum));
        }
        if let Some(reserved) = function.reserved_concurrency.filter(|reserved| maximum > *reserved) {
            return Err(MappingError::ConcurrencyAboveReserved { maximum, reserved });
        }
    }
    if visibility < function.timeout {
        return Err(MappingError::VisibilityBelowTimeout {
            queue_seconds: visibility.as_secs(),
            function_seconds: function.timeout.as_secs(),
        });
    }
    Ok(())
}
