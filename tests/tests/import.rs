//! Recipients files as people have them, through the command line.

use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use end_to_end::{Draft, TestApp};

fn app() -> &'static TestApp {
    static APP: OnceLock<TestApp> = OnceLock::new();
    APP.get_or_init(|| TestApp::launch("import", &[]))
}

async fn campaigns(app: &TestApp) -> i64 {
    app.count("select count(*) from nightshift.campaigns where name <> 'Large' and id > $1", 0).await
}

/// One test, because it counts what all imports leave.
#[tokio::test]
async fn what_is_no_csv_imports_nothing_and_bad_rows_are_named_by_line() {
    let app = app();
    for (bytes, words) in [
        (&b"PK\x03\x04\x14\0rest of a spreadsheet"[..], "spreadsheet"),
        (b"<html><body>Not found</body></html>", "no column \"email\""),
        (b"", "empty"),
        (b"ann@example.org\nbob@example.org\n", "no column \"email\""),
        (b"email\nno address\n", "no recipient"),
    ] {
        app.try_import(&Draft { csv: bytes.to_vec(), ..Draft::default() }).expect_failure(words);
    }
    assert_eq!(campaigns(app).await, 0);
    assert_eq!(
        app.count("select count(*) from nightshift.recipients where position > $1 and fields = '{}'", 0).await,
        0
    );

    let csv = "\u{feff}Name;E-Mail\r\nAnn;ann@rows.example\r\nBob;bob at rows.example\r\n\"Cle\r\nmens\";clemens@rows.example\r\nDora;\r\n";
    let draft = Draft { subject: "For {{ name }}", csv: csv.as_bytes().to_vec(), ..Draft::default() };
    let said = app.try_import(&draft).expect_success();
    let answer: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&answer["imported"], &answer["rejected"]), (&2.into(), &2.into()));
    let rejects = said.rejects.expect("a rejects file");
    let lines: Vec<&str> = rejects.lines().skip(1).map(|row| row.split(',').next().unwrap_or_default()).collect();
    assert_eq!(lines, ["3", "6"], "{rejects}");
    let id = answer["campaign_id"].as_i64().expect("an id");
    assert_eq!(app.count("select count(*) from nightshift.recipients where campaign_id = $1", id).await, 2);
    let names =
        "select count(*) from nightshift.recipients where campaign_id = $1 and fields ->> 'name' = E'Cle\\r\\nmens'";
    assert_eq!(app.count(names, id).await, 1);
}

#[tokio::test]
async fn a_hundred_thousand_rows_are_imported_in_bounded_memory() {
    /// Of the whole process; the file has 20 MB.
    const MOST_KIB: u64 = 64 * 1024;
    let app = app();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (csv, html) = (folder.path().join("large.csv"), folder.path().join("mail.html"));
    let mut rows = String::from("email,first_name,note\n");
    let note = "n".repeat(150);
    for number in 0..100_000 {
        writeln!(rows, "reader{number}@large.example,Reader {number},{note}").expect("a string grows");
    }
    std::fs::write(&csv, rows).expect("a large file");
    std::fs::write(&html, "<p>{{ first_name }}</p>").expect("a template");
    let mut command = app.command(&["campaign", "create", "--json", "--name", "Large", "--account", "inbox"]);
    command.args(["--subject", "Large", "--html"]).arg(&html).arg("--recipients").arg(&csv);
    let mut import = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the import starts");

    // The kernel keeps the highest mark: the last look before the end tells of all the time before it.
    let (mut peak_kib, mut looks) = (0, 0);
    while import.try_wait().expect("a child").is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", import.id())).unwrap_or_default();
        let mark =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        if let Some(mark) = mark {
            (peak_kib, looks) = (mark, looks + 1);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let output = import.wait_with_output().expect("it ended");
    assert!(output.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["imported"], 100_000);
    let id = answer["campaign_id"].as_i64().expect("an id");
    assert_eq!(app.count("select count(*) from nightshift.recipients where campaign_id = $1", id).await, 100_000);
    assert!(looks > 3, "the import was seen only {looks} times");
    eprintln!("peak of 100,000 rows: {peak_kib} KiB");
    assert!(peak_kib < MOST_KIB, "{peak_kib} KiB");
}
