//! A runner for the tests of the local cloud: starts the function named by its argument twice, one busy and one frozen,
//! prints their process numbers and waits to be killed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use local_cloud::bundle::{AsyncFailure, Function};
use local_cloud::lambda::{Lambda, LambdaFunction, LambdaOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let executable = std::env::args().nth(1).context("usage: probe-host EXECUTABLE [UID]")?;
    let uid = std::env::args().nth(2).map(|uid| uid.parse()).transpose()?;
    let function = Function {
        logical_id: "Probe".to_owned(),
        name: "Probe".to_owned(),
        binary: "probe-function".to_owned(),
        timeout: Duration::from_secs(600),
        memory_mib: 128,
        environment: BTreeMap::new(),
        reserved_concurrency: None,
        on_async_failure: AsyncFailure { max_retries: 0, max_age: Duration::from_secs(60), destination: None },
        invoke_at_start: false,
        event_sources: Vec::new(),
        schedules: Vec::new(),
        routes: Vec::new(),
    };
    let functions = vec![LambdaFunction { function, executable: executable.into() }];
    let options = LambdaOptions { run_as: uid.map(|uid| (uid, uid)), ..LambdaOptions::default() };
    let lambda = Lambda::start(functions, options).await?;
    let sleeper = lambda.clone();
    tokio::spawn(async move { sleeper.invoke("Probe", r#"{"do":"sleep","ms":500000}"#.into()).await });
    while lambda.activity()[0].running == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    lambda.invoke("Probe", "{}".into()).await?;
    let mut pids = children()?;
    while pids.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        pids = children()?;
    }
    println!("{}", pids.join(" "));
    std::future::pending::<()>().await;
    Ok(())
}

fn children() -> anyhow::Result<Vec<String>> {
    let mut pids = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let children = std::fs::read_to_string(task?.path().join("children"))?;
        pids.extend(children.split_whitespace().map(str::to_owned));
    }
    Ok(pids)
}
