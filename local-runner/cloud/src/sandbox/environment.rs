//! The environment that Lambda gives to a process, and nothing of the runner's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use chrono::Utc;
use uuid::Uuid;

use super::Blueprint;
use crate::bundle::REGION;

/// The variables of a new process: Lambda's over the template's over the runner's extras.
pub(super) fn of(blueprint: &Blueprint, runtime_api: SocketAddr) -> BTreeMap<String, String> {
    let function = &blueprint.function;
    let task_root = blueprint.executable.parent().map_or_else(String::new, |folder| folder.display().to_string());
    let stream = format!("{}/[$LATEST]{}", Utc::now().format("%Y/%m/%d"), Uuid::new_v4().simple());
    let mut environment = BTreeMap::from([
        ("LANG".to_owned(), "en_US.UTF-8".to_owned()),
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("TZ".to_owned(), ":UTC".to_owned()),
    ]);
    environment.extend(blueprint.extra_env.clone());
    environment.extend(function.environment.clone());
    environment.extend(
        [
            ("_HANDLER", "bootstrap".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            ("AWS_SESSION_TOKEN", "local".to_owned()),
            ("AWS_LAMBDA_FUNCTION_NAME", function.name.clone()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mib.to_string()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", function.name)),
            ("AWS_LAMBDA_LOG_STREAM_NAME", stream),
            ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string()),
            ("LAMBDA_TASK_ROOT", task_root),
            ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    environment
}
