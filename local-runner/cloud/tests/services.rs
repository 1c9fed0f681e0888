//! Real servers in temporary folders: started, adopted, replaced, stopped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_cloud::services::{self, Mode, Origin, Service, Services, ServicesError, ServicesOptions};
use local_cloud::state::{ProcessId, State};
use nix::sys::signal::Signal;
use sqlx::Connection;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

mod common;
use common::open_temp_dir;

/// A state folder whose servers end with the test, also with a failed one.
struct Fixture {
    state: State,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::below("state")
    }

    fn below(path: &str) -> Self {
        let dir = open_temp_dir();
        let state = State::open_dir(&dir.path().join(path)).unwrap();
        Self { state, _dir: dir }
    }

    fn own(&self) -> ServicesOptions {
        let mut options = ServicesOptions::new(self._dir.path(), Mode::Own);
        options.durable = false;
        options
    }

    /// Configured mode with a database somewhere else, so that only Redis is at stake.
    fn redis_only(&self) -> ServicesOptions {
        let mut options = self.own();
        options.mode = Mode::Configured;
        options.environment.remove("REDIS_URL");
        options.environment.insert("DATABASE_URL".to_owned(), "postgres://elsewhere/db".to_owned());
        options
    }

    /// The process of a service, as the state folder has it.
    fn process(&self, service: &str) -> ProcessId {
        let record = std::fs::read(self.record(service)).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        serde_json::from_value(record["process"].clone()).unwrap()
    }

    fn record(&self, service: &str) -> PathBuf {
        self.state.dir().join(format!("{service}.json"))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let state = self.state.clone();
        let stopping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(services::stop(&state)).ok();
        });
        stopping.join().ok();
    }
}

async fn ask_postgres(url: &str, sql: &'static str) -> String {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

async fn ask_redis(url: &str, command: &[&str]) -> redis::Value {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

fn text(text: &str) -> redis::Value {
    redis::Value::BulkString(text.as_bytes().to_vec())
}

async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn own_servers_ignore_urls_that_lie_around_and_keep_their_data_and_ports() {
    let fixture = Fixture::new();
    let mut options = fixture.own();
    options.durable = true;
    for name in ["DATABASE_URL", "REDIS_URL"] {
        options.environment.insert(name.to_owned(), "somebody's://own".to_owned());
    }
    std::fs::write(fixture._dir.path().join(".env"), "DATABASE_URL=postgres://somebody/x\n").unwrap();

    let services = Services::start(&fixture.state, &options).await.unwrap();
    assert_eq!(services.origin(Service::Postgres), Origin::Binaries);
    assert_eq!(services.origin(Service::Redis), Origin::Binaries);
    let (database, redis) = (services.database_url().to_owned(), services.redis_url().to_owned());
    assert!(!database.ends_with(":5432/nightshift") && !redis.contains(":6379/"));
    for (setting, expected) in [
        ("select current_setting('fsync')", "on"),
        ("select current_setting('synchronous_commit')", "on"),
        ("select current_setting('listen_addresses')", "127.0.0.1"),
        ("select current_setting('max_connections')", "200"),
        ("select pg_encoding_to_char(encoding)::text from pg_database where datname = current_database()", "UTF8"),
        ("select datcollate::text from pg_database where datname = current_database()", "C.UTF-8"),
    ] {
        assert_eq!(ask_postgres(&database, setting).await, expected, "{setting}");
    }
    for (setting, expected) in [("appendonly", "yes"), ("appendfsync", "everysec"), ("maxmemory-policy", "noeviction")]
    {
        let answer = ask_redis(&redis, &["CONFIG", "GET", setting]).await;
        assert_eq!(answer, redis::Value::Array(vec![text(setting), text(expected)]));
    }
    let mut connection = sqlx::PgConnection::connect(&database).await.unwrap();
    sqlx::raw_sql("create table kept as select 'a mail'::text as what").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    ask_redis(&redis, &["SET", "kept", "a key"]).await;

    services.stop().await.unwrap();
    assert!(sqlx::PgConnection::connect(&database).await.is_err());
    let services = Services::start(&fixture.state, &options).await.unwrap();
    assert_eq!(services.database_url(), database);
    assert_eq!(services.redis_url(), redis);
    assert_eq!(ask_postgres(&database, "select what from kept").await, "a mail");
    assert_eq!(ask_redis(&redis, &["GET", "kept"]).await, text("a key"));
}

#[tokio::test]
async fn a_stranger_without_the_password_is_refused() {
    let fixture = Fixture::new();
    let services = Services::start(&fixture.state, &fixture.own()).await.unwrap();
    let port = services.database_url().rsplit_once(':').unwrap().1;
    for login in ["nightshift:wrong", "nightshift", "postgres"] {
        let url = format!("postgres://{login}@127.0.0.1:{port}");
        assert!(sqlx::PgConnection::connect(&url).await.is_err(), "{login}");
    }
    let port = services.redis_url().rsplit_once(':').unwrap().1;
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    assert!(redis::cmd("GET").arg("x").query_async::<redis::Value>(&mut connection).await.is_err());
}

#[tokio::test]
async fn servers_survive_their_killed_runner_and_are_adopted() {
    let fixture = Fixture::new();
    let mut runner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "run_until_killed", "--nocapture"])
        .env("STATE_OF_THE_RUNNER", fixture.state.dir())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(runner.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("servers are up") {
            break;
        }
    }
    runner.kill().await.unwrap();
    let (postgres, redis) = (fixture.process("postgres"), fixture.process("redis"));
    assert!(postgres.is_alive() && redis.is_alive());

    let services = Services::start(&fixture.state, &fixture.own()).await.unwrap();
    assert_eq!((fixture.process("postgres"), fixture.process("redis")), (postgres.clone(), redis.clone()));
    assert_eq!(ask_postgres(services.database_url(), "select 'here'").await, "here");

    services::stop(&fixture.state).await.unwrap();
    assert!(!postgres.is_alive() && !redis.is_alive());
}

#[tokio::test]
#[ignore = "the process that another test kills"]
async fn run_until_killed() {
    let Some(dir) = std::env::var_os("STATE_OF_THE_RUNNER") else {
        return;
    };
    let state = State::open_dir(Path::new(&dir)).unwrap();
    let _lock = state.lock().unwrap();
    let mut options = ServicesOptions::new("/", Mode::Own);
    options.durable = false;
    let _services = Services::start(&state, &options).await.unwrap();
    println!("servers are up");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn servers_whose_records_were_lost_are_replaced_and_keep_their_data() {
    let fixture = Fixture::new();
    let services = Services::start(&fixture.state, &fixture.own()).await.unwrap();
    ask_redis(services.redis_url(), &["SET", "kept", "1"]).await;
    let former = (fixture.process("postgres"), fixture.process("redis"));
    for service in ["postgres", "redis"] {
        std::fs::remove_file(fixture.record(service)).unwrap();
    }

    let services = Services::start(&fixture.state, &fixture.own()).await.unwrap();
    assert!(!former.0.is_alive() && !former.1.is_alive());
    assert_eq!(ask_redis(services.redis_url(), &["GET", "kept"]).await, text("1"));
    assert_eq!(ask_postgres(services.database_url(), "select 'here'").await, "here");
}

#[tokio::test]
async fn a_stale_record_with_a_recycled_pid_hurts_nobody() {
    let fixture = Fixture::new();
    let mut bystander = tokio::process::Command::new("sleep").arg("300").kill_on_drop(true).spawn().unwrap();
    let mut recycled = ProcessId::of(bystander.id().unwrap()).unwrap();
    recycled.start_ticks -= 1;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let record = serde_json::json!({ "process": recycled, "port": port });
    std::fs::write(fixture.record("redis"), record.to_string()).unwrap();

    let services = Services::start(&fixture.state, &fixture.redis_only()).await.unwrap();
    assert_ne!(services.redis_url().rsplit_once(':').unwrap().1, format!("{port}/0"));
    ask_redis(services.redis_url(), &["PING"]).await;
    services.stop().await.unwrap();
    assert!(bystander.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_dies_comes_back_on_its_port_with_its_data() {
    let fixture = Fixture::new();
    let services = Services::start(&fixture.state, &fixture.own()).await.unwrap();
    ask_redis(services.redis_url(), &["SET", "kept", "1"]).await;
    let shutdown = CancellationToken::new();
    let watched = async {
        for service in ["postgres", "redis"] {
            let former = fixture.process(service);
            former.signal(Signal::SIGKILL).unwrap();
            eventually("a new process", async || (fixture.process(service) != former).then_some(())).await;
        }
        eventually("Postgres", async || sqlx::PgConnection::connect(services.database_url()).await.ok()).await;
        let client = redis::Client::open(services.redis_url()).unwrap();
        let mut redis = eventually("Redis", async || client.get_multiplexed_async_connection().await.ok()).await;
        eventually("the key", async || {
            let value = redis::cmd("GET").arg("kept").query_async::<Option<u32>>(&mut redis).await;
            (value.ok()? == Some(1)).then_some(())
        })
        .await;
        shutdown.cancel();
    };
    tokio::join!(services.watch(shutdown.clone()), watched);
}

#[tokio::test]
async fn long_paths_and_blanks_do_not_matter() {
    let long = ["with a blank, a \"quote\" and ünicode", &"long".repeat(40), &"longer".repeat(20)].join("/");
    let fixture = Fixture::below(&long);
    let services = Services::start(&fixture.state, &fixture.own()).await.unwrap();
    assert_eq!(ask_postgres(services.database_url(), "select 'here'").await, "here");
    ask_redis(services.redis_url(), &["PING"]).await;
}

#[tokio::test]
async fn urls_that_are_set_win_when_they_may() {
    let fixture = Fixture::new();
    let mut options = fixture.redis_only();
    options.environment.remove("DATABASE_URL");
    options.environment.insert("REDIS_URL".to_owned(), "redis://elsewhere".to_owned());
    std::fs::write(fixture._dir.path().join(".env"), "DATABASE_URL='postgres://file/db'\n").unwrap();
    let services = Services::start(&fixture.state, &options).await.unwrap();
    assert_eq!(services.database_url(), "postgres://file/db");
    assert_eq!(services.redis_url(), "redis://elsewhere");
    assert_eq!(services.origin(Service::Redis), Origin::Configured);
}

/// A project with a compose file, and a `docker` on the path that does what the script says.
struct Substitute {
    fixture: Fixture,
    bin: tempfile::TempDir,
}

impl Substitute {
    fn new(script: &str) -> Self {
        let fixture = Fixture::new();
        std::fs::create_dir(fixture._dir.path().join("infra")).unwrap();
        std::fs::write(fixture._dir.path().join("infra/docker-compose.yml"), "services: {}\n").unwrap();
        let bin = open_temp_dir();
        let docker = bin.path().join("docker");
        std::fs::write(&docker, format!("#!/bin/sh\necho \"$*\" >> '{}/calls'\n{script}", bin.path().display()))
            .unwrap();
        std::fs::set_permissions(&docker, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { fixture, bin }
    }

    fn options(&self, binaries: bool) -> ServicesOptions {
        let mut options = self.fixture.redis_only();
        let path = if binaries { ":/usr/local/bin:/usr/bin:/bin" } else { "" };
        options.environment.insert("PATH".to_owned(), format!("{}{path}", self.bin.path().display()));
        options.standard_folders = false;
        options
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.bin.path().join("calls")).unwrap_or_default()
    }
}

#[tokio::test]
async fn without_a_working_docker_binaries_are_used() {
    for (script, expected_calls) in [
        ("echo 'permission denied while trying to connect to the socket' >&2; exit 1", 1),
        ("[ \"$1\" = version ] && exit 0; echo \"docker: 'compose' is not a docker command.\" >&2; exit 1", 2),
        ("case \"$*\" in *' up '*) echo 'pull access denied' >&2; exit 18;; esac; exit 0", 3),
    ] {
        let substitute = Substitute::new(script);
        let services = Services::start(&substitute.fixture.state, &substitute.options(true)).await.unwrap();
        assert_eq!(services.origin(Service::Redis), Origin::Binaries);
        assert_eq!(substitute.calls().lines().count(), expected_calls, "{}", substitute.calls());
        ask_redis(services.redis_url(), &["PING"]).await;
    }
}

#[tokio::test]
async fn without_anything_the_command_that_installs_it_is_named() {
    let substitute = Substitute::new("echo 'Cannot connect to the Docker daemon' >&2; exit 1");
    let refused = Services::start(&substitute.fixture.state, &substitute.options(false)).await.unwrap_err();
    assert!(matches!(refused, ServicesError::Missing { .. }));
    let message = refused.to_string();
    assert!(message.contains("Cannot connect to the Docker daemon"), "{message}");
    assert!(message.contains("infra/install-servers.sh'"), "{message}");
}

#[tokio::test]
async fn docker_comes_first_where_it_works_and_its_container_is_adopted() {
    // The substitute's container is a Redis of this machine.
    let script = r#"
PATH=/usr/local/bin:/usr/bin:/bin
here=$(dirname "$0")
case "$*" in
    *" up "*) redis-server --port "$NIGHTSHIFT_REDIS_PORT" --bind 127.0.0.1 --requirepass "$NIGHTSHIFT_REDIS_PASSWORD" \
        --daemonize yes --dir "$here" --pidfile "$here/pid" --save '' > /dev/null ;;
    *" stop") kill "$(cat "$here/pid")" ;;
esac
"#;
    let substitute = Substitute::new(script);
    let options = substitute.options(true);
    let services = Services::start(&substitute.fixture.state, &options).await.unwrap();
    assert_eq!(services.origin(Service::Redis), Origin::Docker);
    let calls = substitute.calls();
    let up = calls.lines().last().unwrap();
    assert!(up.starts_with("compose --env-file /dev/null -p nightshift-"), "{up}");
    assert!(up.ends_with("infra/docker-compose.yml up --detach --wait redis"), "{up}");

    let again = Services::start(&substitute.fixture.state, &options).await.unwrap();
    assert_eq!(again.redis_url(), services.redis_url());
    assert_eq!(substitute.calls(), calls);

    services.stop().await.unwrap();
    assert!(substitute.calls().ends_with("stop\n"));
    let client = redis::Client::open(again.redis_url()).unwrap();
    eventually("its end", async || client.get_multiplexed_async_connection().await.is_err().then_some(())).await;
}

#[tokio::test]
async fn own_servers_come_from_binaries_even_where_docker_works() {
    let substitute = Substitute::new("exit 0");
    let mut options = substitute.options(true);
    options.mode = Mode::Own;
    options.environment.insert("REDIS_URL".to_owned(), "redis://somebody".to_owned());
    let services = Services::start(&substitute.fixture.state, &options).await.unwrap();
    assert_eq!(services.origin(Service::Postgres), Origin::Binaries);
    assert_eq!(services.origin(Service::Redis), Origin::Binaries);
    assert_eq!(substitute.calls(), "");
}
