//! What the judge must get right before anybody is judged.

use sink::{Manners, Sink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Writes each piece once the answer to the one before has come, and returns the answers.
async fn talk(sink: &Sink, pieces: &[&str]) -> Vec<String> {
    let mut stream = TcpStream::connect(sink.address()).await.expect("the sink listens");
    let mut answers = vec![hear(&mut stream).await];
    for piece in pieces {
        stream.write_all(piece.as_bytes()).await.expect("the sink reads");
        answers.push(hear(&mut stream).await);
    }
    answers
}

async fn hear(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).await.expect("the sink answers");
    String::from_utf8(buffer[..read].to_vec()).expect("ASCII")
}

/// The codes of a burst of replies.
fn codes(burst: &str) -> Vec<&str> {
    burst.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect()
}

#[tokio::test]
async fn content_and_the_next_envelope_in_one_packet_are_one_turn() {
    let sink = Sink::start(Manners::default()).await.expect("a sink");
    let answers = talk(
        &sink,
        &[
            "EHLO client.example\r\n",
            "MAIL FROM:<a@example.org>\r\nRCPT TO:<one@x.example>\r\nDATA\r\n",
            "Message-ID: <1@x>\r\n\r\n..dotted\r\n.\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<two@x.example>\r\nDATA\r\n",
            "message-id: <2@x>\r\n\r\n\r\n.\r\nQUIT\r\n",
        ],
    )
    .await;
    assert_eq!(codes(&answers[2]), ["250", "250", "354"]);
    assert_eq!(codes(&answers[3]), ["250", "250", "250", "354"]);
    assert_eq!(codes(&answers[4]), ["250", "221"]);
    let accepted: Vec<_> = sink.accepted().into_iter().map(|mail| (mail.message_id, mail.recipient)).collect();
    let expected = [("1@x", "one@x.example"), ("2@x", "two@x.example")];
    assert_eq!(accepted, expected.map(|(id, to)| (id.to_owned(), to.to_owned())));
    let figures = sink.figures();
    assert_eq!((figures.connections, figures.turns, figures.mails), (1, 4, 2));
}

#[tokio::test]
async fn content_without_its_dot_counts_for_nothing() {
    let sink = Sink::start(Manners::default()).await.expect("a sink");
    let group = "EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<one@x.example>\r\nDATA\r\n";
    let mut stream = TcpStream::connect(sink.address()).await.expect("the sink listens");
    stream.write_all(format!("{group}Message-ID: <1@x>\r\n\r\nhalf\r\n.").as_bytes()).await.expect("the sink reads");
    stream.shutdown().await.expect("can be closed");
    let mut said = String::new();
    stream.read_to_string(&mut said).await.expect("the sink answers and closes");
    assert!(said.contains("354"), "{said}");
    assert_eq!(sink.count(), 0);
}

#[tokio::test]
async fn refusals_are_a_share_of_the_addresses_and_leave_the_connection_usable() {
    let sink = Sink::start(Manners { refused_percent: 20, ..Manners::default() }).await.expect("a sink");
    let addresses: Vec<_> = (0..1000).map(|number| format!("reader{number}@x.example")).collect();
    let refused = addresses.iter().filter(|address| sink.refuses(address)).count();
    assert!((150..250).contains(&refused), "{refused} of 1000");
    let unwelcome = addresses.iter().find(|address| sink.refuses(address)).expect("some are");
    let welcome = addresses.iter().find(|address| !sink.refuses(address)).expect("most are not");
    let answers = talk(
        &sink,
        &[
            &format!("EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<{unwelcome}>\r\nDATA\r\n"),
            &format!("RSET\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<{welcome}>\r\nDATA\r\n"),
            "\r\n.\r\n",
        ],
    )
    .await;
    assert_eq!(codes(&answers[1]), ["250", "250", "550", "503"]);
    assert_eq!(codes(&answers[2]), ["250", "250", "250", "354"]);
    assert_eq!(codes(&answers[3]), ["250"]);
    assert_eq!((sink.count(), sink.figures().refused), (1, 1));
}

#[tokio::test]
async fn data_for_nobody_gets_a_554_after_its_lone_dot() {
    let manners = Manners { refused_percent: 100, takes_data_for_nobody: true, ..Manners::default() };
    let sink = Sink::start(manners).await.expect("a sink");
    let group = "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n";
    let answers = talk(&sink, &[group, ".\r\n"]).await;
    assert_eq!(codes(&answers[1]), ["250", "250", "550", "354"]);
    assert_eq!(codes(&answers[2]), ["554"]);
    assert_eq!(sink.count(), 0);
}

#[tokio::test]
async fn who_comes_later_is_refused_once_and_nobody_always() {
    let sink = Sink::start(Manners::default()).await.expect("a sink");
    let mail = "MAIL FROM:<a@x.example>\r\nRCPT TO:<later-1@x.example>\r\nRCPT TO:<nobody-1@x.example>\r\nRSET\r\n";
    let answers = talk(&sink, &[mail, mail]).await;
    assert_eq!(codes(&answers[1]), ["250", "451", "550", "250"]);
    assert_eq!(codes(&answers[2]), ["250", "250", "550", "250"]);
}
