//! Logs: JSON where Lambda asks for it, one readable line otherwise.

use tracing_subscriber::EnvFilter;

/// Sets up logging for this process; call it first in `main`.
///
/// `RUST_LOG` selects (default `info`); JSON when `AWS_LAMBDA_LOG_FORMAT=JSON`, which Lambda sets from the template's
/// `LoggingConfig`. A second call changes nothing.
pub fn init() {
    let json = std::env::var("AWS_LAMBDA_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    if !json {
        // The runtime wraps each line in its request id; people see that in the runner's own lines.
        filter = filter.add_directive("lambda_runtime=warn".parse().expect("a target and a level"));
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    // Fails only when a subscriber is set already, as in tests: then that one stays.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.without_time().try_init() };
}

/// Logs a failed invocation with its whole chain of causes, once, and hands it to the Lambda runtime.
pub fn failure(error: anyhow::Error) -> lambda_runtime::Error {
    let chain = format!("{error:#}");
    tracing::error!("{chain}");
    chain.into()
}
