//! The lines of an SMTP conversation: reading them within limits, and sending replies together.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

/// RFC 5321 asks for 512 and extensions for some more; AUTH is the longest with 12,288.
const MAX_LINE: usize = 12 * 1024;

const BYE_SHUTDOWN: &str = "421 4.3.2 Shutting down";
const BYE_IDLE: &str = "421 4.4.2 Nothing heard for too long";

/// What the client sent next.
pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// The connection was closed by the client.
    End,
    /// It must be closed, with this farewell.
    Bye(&'static str),
}

/// Both directions of a connection.
pub(super) struct Wire {
    input: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    /// Replies not sent yet: those to pipelined commands leave together.
    replies: Vec<u8>,
    /// How long the client may be silent.
    patience: Duration,
    shutdown: CancellationToken,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, patience: Duration, shutdown: CancellationToken) -> Self {
        let (input, output) = stream.into_split();
        Self { input: BufReader::with_capacity(32 * 1024, input), output, replies: Vec::new(), patience, shutdown }
    }

    /// What has been received and not been consumed.
    pub(super) fn buffer(&self) -> &[u8] {
        self.input.buffer()
    }

    pub(super) fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
    }

    pub(super) fn reply(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    pub(super) fn reply_lines(&mut self, code: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let separator = if index + 1 == lines.len() { ' ' } else { '-' };
            self.reply(&format!("{code}{separator}{line}"));
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let write = self.output.write_all(&self.replies);
        // A client that does not read its replies is as idle as one that sends nothing.
        tokio::time::timeout(self.patience, write).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.replies.clear();
        Ok(())
    }

    /// Sends replies and waits for input; `None` when there is some, otherwise why not.
    pub(super) async fn wait_for_input(&mut self) -> io::Result<Option<Line>> {
        if !self.input.buffer().is_empty() {
            return Ok(None);
        }
        self.flush().await?;
        let filled = tokio::select! {
            filled = tokio::time::timeout(self.patience, self.input.fill_buf()) => filled,
            () = self.shutdown.cancelled() => return Ok(Some(Line::Bye(BYE_SHUTDOWN))),
        };
        match filled {
            Err(_) => Ok(Some(Line::Bye(BYE_IDLE))),
            Ok(bytes) => Ok(bytes?.is_empty().then_some(Line::End)),
        }
    }

    /// The next line without its end. One that is too long is read to its end and forgotten.
    pub(super) async fn read_line(&mut self) -> io::Result<Line> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            if let Some(end) = self.wait_for_input().await? {
                return Ok(end);
            }
            let bytes = self.input.buffer();
            let newline = bytes.iter().position(|byte| *byte == b'\n');
            let part = newline.map_or(bytes, |at| &bytes[..at]);
            too_long |= line.len() + part.len() > MAX_LINE;
            if !too_long {
                line.extend_from_slice(part);
            }
            let taken = newline.map_or(bytes.len(), |at| at + 1);
            self.input.consume(taken);
            if newline.is_some() {
                if too_long {
                    return Ok(Line::TooLong);
                }
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Line::Whole(line));
            }
        }
    }
}
