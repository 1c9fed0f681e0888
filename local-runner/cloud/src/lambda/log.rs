//! Where the lines go that functions write, and the ones that Lambda writes about them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;

/// What `LogType: Tail` shows of an invocation.
const TAIL_BYTES: usize = 4096;

/// A line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Logical id of the function.
    pub function: Arc<str>,
    /// Who wrote it.
    pub source: LogSource,
    /// The invocation during which it was written; none while a process starts.
    pub request_id: Option<String>,
    /// The line without its end.
    pub text: String,
}

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// The function's process, to standard output or error.
    Function,
    /// The runner: START, END, REPORT and what it did to the process.
    Platform,
}

/// Takes the lines. It is called from within invocations and must not block.
#[derive(Clone)]
pub struct LogSink(Arc<dyn Fn(LogLine) + Send + Sync>);

impl LogSink {
    /// A sink that calls `accept` for each line.
    pub fn new(accept: impl Fn(LogLine) + Send + Sync + 'static) -> Self {
        Self(Arc::new(accept))
    }

    /// A sink and the other end, which receives the lines in order.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<LogLine>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Lines after the receiver has gone have no reader.
        (Self::new(move |line| drop(sender.send(line))), receiver)
    }

    /// A sink without a reader.
    pub fn discard() -> Self {
        Self::new(drop)
    }
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogSink")
    }
}

/// The log of one invocation on its way to the sink; remembers its last 4 KiB.
#[derive(Debug)]
pub struct Journal {
    sink: LogSink,
    function: Arc<str>,
    request_id: Option<String>,
    tail: VecDeque<u8>,
}

impl Journal {
    /// A journal for what a function does in the invocation, or outside of any.
    pub fn new(sink: LogSink, function: Arc<str>, request_id: Option<String>) -> Self {
        Self { sink, function, request_id, tail: VecDeque::new() }
    }

    /// Records what the process wrote, with or without the end of the line.
    pub fn output(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        self.record(LogSource::Function, text.trim_end_matches(['\n', '\r']).to_owned());
    }

    /// Records a line of the runner.
    pub fn platform(&mut self, text: String) {
        self.record(LogSource::Platform, text);
    }

    /// The end of the log so far.
    pub fn tail(&self) -> String {
        let (front, back) = self.tail.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    fn record(&mut self, source: LogSource, text: String) {
        self.tail.extend(text.as_bytes());
        self.tail.push_back(b'\n');
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        (self.sink.0)(LogLine {
            function: Arc::clone(&self.function),
            source,
            request_id: self.request_id.clone(),
            text,
        });
    }
}
