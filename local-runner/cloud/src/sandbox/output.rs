//! What a process writes to standard output and error: one pipe for both, so that the order is kept.

use std::io::{self, PipeReader, PipeWriter, Read};

use tokio::net::unix::pipe;

use crate::lambda::log::Journal;

/// A longer line is cut in pieces of this many bytes, as CloudWatch does with 256 KiB.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// A pipe holds 64 KiB, or 1 MiB where it was enlarged. Without a bound, a thread that writes without end would keep us.
const MAX_DRAINED_CHUNKS: usize = 64;

#[derive(Debug)]
pub(super) struct Output {
    pipe: pipe::Receiver,
    /// The same end again: reads what is there even before the runtime has heard of it.
    direct: PipeReader,
    partial: Vec<u8>,
    closed: bool,
}

impl Output {
    /// A pipe: its reading end, and the writing end for the process.
    pub(super) fn pipe() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let direct = reader.try_clone()?;
        // Makes both non-blocking, they are one file description.
        let pipe = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((Self { pipe, direct, partial: Vec::new(), closed: false }, writer))
    }

    /// Waits for output and passes on what is there; waits for ever once the pipe is closed.
    pub(super) async fn forward(&mut self, journal: &mut Journal) {
        if self.closed {
            return std::future::pending().await;
        }
        let mut chunk = [0; 16 * 1024];
        if self.pipe.readable().await.is_err() {
            self.closed = true;
            return;
        }
        match self.pipe.try_read(&mut chunk) {
            Ok(0) => self.closed = true,
            Ok(bytes) => self.accept(&chunk[..bytes], journal),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.closed = true,
        }
    }

    /// Passes on everything that is in the pipe now. Call it when the process waits or is gone, then nothing is missed.
    pub(super) fn drain(&mut self, journal: &mut Journal) {
        let mut chunk = [0; 16 * 1024];
        for _ in 0..MAX_DRAINED_CHUNKS {
            match self.direct.read(&mut chunk) {
                Ok(0) => break,
                Ok(bytes) => self.accept(&chunk[..bytes], journal),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_empty) => break,
            }
        }
        if !self.partial.is_empty() {
            journal.output(&std::mem::take(&mut self.partial));
        }
    }

    fn accept(&mut self, bytes: &[u8], journal: &mut Journal) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if self.partial.ends_with(b"\n") || self.partial.len() >= MAX_LINE_BYTES {
                journal.output(&self.partial);
                self.partial.clear();
            }
        }
    }
}
