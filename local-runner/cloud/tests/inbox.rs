//! Conversations with the inbox over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use local_cloud::inbox::{Filter, Inbox, InboxError, InboxOptions, Mailbox};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Fixture {
    inbox: Inbox,
    dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut InboxOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = InboxOptions::new(dir.path().join("inbox"), ANY_PORT);
        change(&mut options);
        let inbox = Inbox::start(options).await.unwrap();
        Self { inbox, dir }
    }

    fn mailbox(&self) -> Mailbox {
        Mailbox::open(&self.dir.path().join("inbox"))
    }

    /// Subject and recipients of all mails.
    fn mails(&self) -> Vec<(String, Vec<String>)> {
        let mails = self.mailbox().list(&Filter::default()).unwrap();
        mails.into_iter().map(|mail| (mail.subject, mail.envelope.to)).collect()
    }

    async fn client(&self) -> Client {
        let mut client = Client::connect(self.inbox.address()).await;
        assert_eq!(client.say("EHLO test").await[..3], *"250");
        client
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream: BufReader::new(stream) };
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// A whole reply, lines joined with `\n`; empty when the server has hung up.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        let read = async {
            while let Ok(1..) = self.stream.read_line(&mut reply).await {
                let line = reply.trim_end().rsplit('\n').next().unwrap();
                if line.as_bytes().get(3) != Some(&b'-') {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("no reply in time");
        reply.trim_end().replace("\r\n", "\n")
    }

    async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.reply().await
    }

    async fn expect(&mut self, conversation: &[(&str, &str)]) {
        for (line, expected) in conversation {
            let reply = self.say(line).await;
            assert!(reply.starts_with(expected), "{line}: {reply}");
        }
    }

    /// The answer to the final dot.
    async fn mail(&mut self, to: &str, content: &str) -> String {
        self.expect(&[("MAIL FROM:<a@x.test>", "250"), (&format!("RCPT TO:<{to}>"), "250"), ("DATA", "354")]).await;
        self.say(&format!("{content}\r\n.")).await
    }
}

#[tokio::test]
async fn a_mail_is_kept_as_it_came_and_can_be_read_after_the_inbox_has_ended() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    let content = "Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\r\n..a dot\r\nünïcode\r\n";
    assert_eq!(client.mail("bob@y.test", content).await, "250 2.0.0 Kept as 1");
    assert_eq!(client.mail("eve@y.test", "Subject: two\r\n\r\nx").await, "250 2.0.0 Kept as 2");
    assert_eq!(client.say("QUIT").await, "221 2.0.0 Bye");
    assert_eq!(client.reply().await, "");
    let mailbox = fixture.mailbox();
    fixture.inbox.shutdown().await;

    assert_eq!(mailbox.count().unwrap(), 2);
    let mail = mailbox.read(1).unwrap().unwrap();
    assert_eq!(mail.envelope.from, "a@x.test");
    assert_eq!(mail.envelope.to, ["bob@y.test"]);
    assert_eq!(String::from_utf8(mail.raw).unwrap(), content.replace("\r\n..", "\r\n.") + "\r\n");
    assert_eq!(mailbox.read(3).unwrap(), None);
    let subjects = |filter: Filter| -> Vec<String> {
        mailbox.list(&filter).unwrap().into_iter().map(|mail| mail.subject).collect()
    };
    assert_eq!(subjects(Filter::default()), ["Grüße", "two"]);
    assert_eq!(subjects(Filter { limit: Some(1), ..Filter::default() }), ["two"]);
    assert_eq!(subjects(Filter { to: Some("BOB@".to_owned()), ..Filter::default() }), ["Grüße"]);
    assert_eq!(subjects(Filter { subject: Some("grüSSe".to_owned()), ..Filter::default() }), [""; 0]);
    assert_eq!(subjects(Filter { subject: Some("GRÜ".to_owned()), ..Filter::default() }), ["Grüße"]);
    assert_eq!(subjects(Filter { after: Some(1), ..Filter::default() }), ["two"]);
}

#[tokio::test]
async fn the_extensions_it_offers_are_listed() {
    let fixture = Fixture::new().await;
    let mut client = Client::connect(fixture.inbox.address()).await;
    let reply = client.say("EHLO test").await;
    for extension in ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN", "SIZE 26214400"]
    {
        assert!(reply.lines().any(|line| &line[4..] == extension), "{extension}: {reply}");
    }
    assert_eq!(client.say("HELO test").await, "250 inbox.localhost");
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    client
        .send(b"MAIL FROM:<a@x.test> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<b@y.test>\r\nRCPT TO:<bounce@y.test>\r\nRCPT TO:<c@y.test>\r\nDATA\r\n")
        .await;
    for expected in ["250 2.1.0", "250 2.1.5", "550 5.1.1", "250 2.1.5", "354 "] {
        let reply = client.reply().await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    client.send(b"Subject: x\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<d@y.test>\r\nNOOP\r\nRSET\r\nQUIT\r\n").await;
    for expected in ["250 2.0.0 Kept", "250 2.1.0", "250 2.1.5", "250", "250", "221"] {
        let reply = client.reply().await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    assert_eq!(fixture.mails(), [("x".to_owned(), vec!["b@y.test".to_owned(), "c@y.test".to_owned()])]);
}

#[tokio::test]
async fn scripted_recipients_fail_as_help_says() {
    let fixture = Fixture::with(|options| {
        for rule in &mut options.rules {
            if rule.word == "slow" {
                rule.answer = local_cloud::inbox::Answer::Slow(Duration::from_millis(150));
            }
        }
    })
    .await;
    let mut client = fixture.client().await;
    let help = client.say("HELP").await;
    for word in ["bounce@...", "full@...", "later@...", "spam@...", "slow@...", "hangup@..."] {
        assert!(help.contains(word), "{help}");
    }
    client
        .expect(&[
            ("MAIL FROM:<a@x.test>", "250"),
            ("RCPT TO:<bounce-1@y.test>", "550 5.1.1"),
            ("DATA", "554 5.5.1"),
            ("RCPT TO:<full@y.test>", "452 4.2.2"),
            ("RCPT TO:<later@y.test>", "451 4.7.1"),
            ("RCPT TO:<later2@y.test>", "451 4.7.1"),
            ("RCPT TO:<LATER@y.test>", "250"),
            ("RSET", "250"),
        ])
        .await;
    let start = Instant::now();
    assert!(client.mail("slow@y.test", "x").await.starts_with("250"));
    assert!(start.elapsed() >= Duration::from_millis(150));
    assert_eq!(&client.mail("spam@y.test", "x").await[..9], "554 5.7.1");
    assert_eq!(client.mail("hangup@y.test", "x").await, "");
    let to: Vec<_> = fixture.mails().into_iter().flat_map(|(_, to)| to).collect();
    assert_eq!(to, ["slow@y.test", "hangup@y.test"]);
}

#[tokio::test]
async fn any_credentials_are_accepted_unless_some_are_set() {
    let fixture = Fixture::new().await;
    fixture.client().await.expect(&[("AUTH PLAIN AGEAYg==", "235 2.7.0"), ("AUTH PLAIN AGEAYg==", "503")]).await;
    let mut client = fixture.client().await;
    client.expect(&[("AUTH LOGIN", "334 VXNlcm5hbWU6"), ("YQ==", "334 UGFzc3dvcmQ6"), ("Yg==", "235")]).await;

    let fixture = Fixture::with(|options| options.credentials = Some(("a".to_owned(), "b".to_owned()))).await;
    let mut client = fixture.client().await;
    client
        .expect(&[
            ("MAIL FROM:<a@x.test>", "530 5.7.0"),
            ("AUTH PLAIN AGEAYw==", "535 5.7.8"),
            ("AUTH PLAIN", "334"),
            ("*", "501"),
            ("AUTH PLAIN YQ==", "501"),
            ("AUTH CRAM-MD5", "504"),
            ("AUTH LOGIN YQ==", "334"),
            ("Yg==", "235 2.7.0"),
            ("MAIL FROM:<a@x.test>", "250"),
        ])
        .await;
}

#[tokio::test]
async fn addresses_beyond_ascii_need_smtputf8() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    client
        .expect(&[
            ("MAIL FROM:<a@x.test>", "250"),
            ("RCPT TO:<jürgen@bücher.test>", "553 5.6.7"),
            ("RSET", "250"),
            ("MAIL FROM:<ä@x.test> SMTPUTF8", "250"),
            ("RCPT TO:<jürgen@bücher.test>", "250"),
        ])
        .await;
}

#[tokio::test]
async fn what_is_too_large_or_too_long_is_refused_and_the_connection_goes_on() {
    let fixture = Fixture::with(|options| options.max_size = 100_000).await;
    let mut client = fixture.client().await;
    client.expect(&[("MAIL FROM:<a@x.test> SIZE=100001", "552 5.3.4")]).await;
    assert_eq!(&client.say(&"x".repeat(50_000)).await[..9], "500 5.5.2");
    let one_line = "y".repeat(99_000);
    assert!(client.mail("b@y.test", &one_line).await.starts_with("250"));
    assert_eq!(&client.mail("b@y.test", &"z\r\n".repeat(40_000)).await[..9], "552 5.3.4");
    assert!(client.mail("b@y.test", "x").await.starts_with("250"));
    assert_eq!(fixture.mailbox().read(1).unwrap().unwrap().raw.len(), 99_002);
    assert_eq!(fixture.mailbox().count().unwrap(), 2);
}

#[tokio::test]
async fn rubbish_and_wrong_order_end_in_answers_never_in_a_crash() {
    let fixture = Fixture::new().await;
    let mut client = Client::connect(fixture.inbox.address()).await;
    client
        .expect(&[
            ("MAIL FROM:<a@x.test>", "503"),
            ("EHLO", "501"),
            ("EHLO x", "250"),
            ("DATA", "503"),
            ("RCPT TO:<b@y.test>", "503"),
            ("MAIL TO:<a@x.test>", "501"),
            ("STARTTLS", "502"),
            ("MAIL FROM:<a@x.test>", "250"),
            ("MAIL FROM:<a@x.test>", "503"),
            ("QUIT now", "501"),
            ("", "500"),
        ])
        .await;

    let mut seed = 12345_u64;
    for round in 0..30 {
        let mut client = Client::connect(fixture.inbox.address()).await;
        let rubbish: Vec<u8> = (0..4000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if seed >> 60 == 0 { b'\n' } else { (seed >> 33) as u8 }
            })
            .collect();
        if round % 2 == 0 {
            client.send(b"EHLO x\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n").await;
        }
        // The server may hang up in the middle, and that is an answer too.
        client.stream.get_mut().write_all(&rubbish).await.ok();
        client.stream.get_mut().shutdown().await.ok();
        let mut rest = Vec::new();
        let read = client.stream.read_to_end(&mut rest);
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("it hangs").ok();
    }
    assert!(fixture.client().await.mail("b@y.test", "x").await.starts_with("250"));
    assert_eq!(fixture.mailbox().count().unwrap(), 1);
}

#[tokio::test]
async fn fifty_connections_send_at_once_and_nothing_is_lost_or_mixed_up() {
    let fixture = Fixture::new().await;
    let clients = (0..50).map(|number| {
        let address = fixture.inbox.address();
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            client.expect(&[("EHLO test", "250")]).await;
            for mail in 0..20 {
                let content = format!("Subject: {number}-{mail}\r\n\r\n{}", "text\r\n".repeat(number));
                assert!(client.mail(&format!("r{number}-{mail}@y.test"), &content).await.starts_with("250"));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mailbox = fixture.mailbox();
    let mails = mailbox.list(&Filter::default()).unwrap();
    assert_eq!(mails.len(), 1000);
    for mail in mails.iter().step_by(37) {
        let raw = String::from_utf8(mailbox.read(mail.id).unwrap().unwrap().raw).unwrap();
        assert_eq!(mail.envelope.to, [format!("r{}@y.test", mail.subject)]);
        assert!(raw.starts_with(&format!("Subject: {}\r\n", mail.subject)) && raw.ends_with("\r\n"));
    }
}

#[tokio::test]
async fn a_silent_client_is_hung_up_on() {
    let fixture = Fixture::with(|options| options.idle_timeout = Duration::from_millis(50)).await;
    let mut client = fixture.client().await;
    assert_eq!(&client.reply().await[..9], "421 4.4.2");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn a_torn_tail_is_not_seen_and_cut_off_at_the_next_start() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    for subject in ["one", "two"] {
        client.mail("b@y.test", &format!("Subject: {subject}\r\n\r\nx")).await;
    }
    let (mailbox, dir) = (fixture.mailbox(), fixture.dir);
    drop(client);
    fixture.inbox.shutdown().await;
    let path = |name: &str| dir.path().join("inbox").join(name);
    let append = |name: &str, bytes: &[u8]| {
        let mut file = std::fs::OpenOptions::new().append(true).open(path(name)).unwrap();
        file.write_all(bytes).unwrap();
    };
    append("mails.dat", b"Subject: thr");
    append("index.jsonl", br#"{"id":3,"arrived":"2026-"#);
    assert_eq!(mailbox.count().unwrap(), 2);

    let reopen = || async { Inbox::start(InboxOptions::new(dir.path().join("inbox"), ANY_PORT)).await };
    let inbox = eventually_started(&reopen).await;
    let mut client = Client::connect(inbox.address()).await;
    client.say("EHLO test").await;
    assert_eq!(client.mail("b@y.test", "Subject: three\r\n\r\ny").await, "250 2.0.0 Kept as 3");
    assert_eq!(mailbox.read(3).unwrap().unwrap().raw, b"Subject: three\r\n\r\ny\r\n");
    drop(client);
    inbox.shutdown().await;

    // The machine crashed, and of the mails less reached the disk than of the index.
    let size = std::fs::metadata(path("mails.dat")).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(path("mails.dat")).unwrap().set_len(size - 1).unwrap();
    assert_eq!(mailbox.count().unwrap(), 2);
}

async fn eventually_started<F: Future<Output = Result<Inbox, InboxError>>>(start: &impl Fn() -> F) -> Inbox {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match start().await {
            Ok(inbox) => return inbox,
            // The writer of the former one is just ending.
            Err(InboxError::Locked { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn one_folder_has_one_inbox_and_one_port_too() {
    let fixture = Fixture::new().await;
    let same_folder = InboxOptions::new(fixture.dir.path().join("inbox"), ANY_PORT);
    assert!(matches!(Inbox::start(same_folder).await, Err(InboxError::Locked { .. })));
    let same_port = InboxOptions::new(fixture.dir.path().join("other"), fixture.inbox.address());
    let refused = Inbox::start(same_port).await.unwrap_err();
    assert!(refused.to_string().contains("choose another port"), "{refused}");
    assert_eq!(Mailbox::open(&fixture.dir.path().join("nowhere")).count().unwrap(), 0);
}
