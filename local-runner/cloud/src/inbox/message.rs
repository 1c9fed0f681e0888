//! The content of a mail on its way in: where it ends, and what its subject is.

use mail_parser::MessageParser;

/// How much of a mail is searched for its subject.
const HEADER_LIMIT: usize = 64 * 1024;

/// Takes the lines after `DATA` apart: finds the final dot and removes the dots that the client has stuffed.
///
/// Only a dot between two CRLF ends the mail, never one beside a bare line feed, which is how mails are smuggled.
#[derive(Debug)]
pub(super) struct Content {
    state: State,
    bytes: Vec<u8>,
    limit: usize,
    too_large: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Text,
    Cr,
    Dot,
    DotCr,
}

impl Content {
    /// Content of at most `limit` bytes; what comes beyond is read and dropped.
    pub(super) fn new(limit: usize) -> Self {
        Self { state: State::LineStart, bytes: Vec::new(), limit, too_large: false }
    }

    /// Takes what came; returns how much of it belongs to the mail, and whether the final dot was seen.
    pub(super) fn feed(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            let byte = input[at];
            match (self.state, byte) {
                (State::LineStart, b'.') => self.state = State::Dot,
                (State::Dot, b'\r') => self.state = State::DotCr,
                (State::DotCr, b'\n') => return (at + 1, true),
                (State::DotCr, _) => {
                    // The dot was stuffed, the line is a carriage return and more.
                    self.push(b"\r");
                    self.state = State::Cr;
                    continue;
                }
                (State::Cr, b'\n') => {
                    self.push(b"\n");
                    self.state = State::LineStart;
                }
                _ => {
                    let rest = &input[at..];
                    let end = rest.iter().position(|byte| *byte == b'\r');
                    let run = end.map_or(rest, |end| &rest[..=end]);
                    self.state = if end.is_some() { State::Cr } else { State::Text };
                    self.push(run);
                    at += run.len();
                    continue;
                }
            }
            at += 1;
        }
        (at, false)
    }

    /// The mail, or nothing when it was too large.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (!self.too_large).then_some(self.bytes)
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.limit {
            self.too_large = true;
            self.bytes = Vec::new();
        }
        if !self.too_large {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// The subject as people read it; empty when there is none.
pub(super) fn subject(mail: &[u8]) -> String {
    let head = &mail[..mail.len().min(HEADER_LIMIT)];
    let Some(value) = raw_header(head, b"subject:") else {
        return String::new();
    };
    let plain = value.is_ascii() && !value.windows(2).any(|pair| pair == b"=?");
    if plain {
        let words: Vec<_> = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        return String::from_utf8_lossy(&words.join(&b' ')).into_owned();
    }
    let header = [b"Subject:", value, b"\r\n\r\n"].concat();
    MessageParser::new()
        .parse_headers(&header)
        .and_then(|mail| mail.subject().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(value).trim().to_owned())
}

/// The value of a header with its continuation lines.
fn raw_header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').peekable();
    let mut at = 0;
    while let Some(line) = lines.next() {
        let start = at;
        at += line.len();
        if line == b"\r\n" || line == b"\n" {
            return None;
        }
        if line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name)) {
            while let Some(next) = lines.next_if(|next| next.starts_with(b" ") || next.starts_with(b"\t")) {
                at += next.len();
            }
            return Some(&head[start + name.len()..at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds in pieces of each size, which must not matter.
    fn read(input: &[u8]) -> (Vec<u8>, usize, bool) {
        let results: Vec<_> = (1..=input.len())
            .map(|size| {
                let mut content = Content::new(1 << 20);
                let (mut taken, mut done) = (0, false);
                for piece in input.chunks(size) {
                    let (used, ended) = content.feed(piece);
                    taken += used;
                    done = ended;
                    if done {
                        break;
                    }
                }
                (content.finish().expect("small"), taken, done)
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        results.into_iter().next().expect("some input")
    }

    #[test]
    fn stuffed_dots_are_removed_and_the_final_one_ends() {
        let (mail, taken, done) = read(b"a\r\n..b\r\n...\r\n.c\r\nd.\r\n.\r\nQUIT\r\n");
        assert_eq!(mail, b"a\r\n.b\r\n..\r\nc\r\nd.\r\n");
        assert_eq!((taken, done), (24, true));
    }

    #[test]
    fn an_empty_mail_ends_at_once() {
        assert_eq!(read(b".\r\n"), (Vec::new(), 3, true));
    }

    #[test]
    fn a_dot_beside_a_bare_line_feed_does_not_end_the_mail() {
        for smuggled in [&b"a\n.\nb"[..], b"a\n.\r\nb", b"a\r\n.\nb", b"a\r.\r\nb", b"a\r\n.\r\r\nb"] {
            let mut whole = smuggled.to_vec();
            whole.extend_from_slice(b"\r\n.\r\n");
            let (_, taken, done) = read(&whole);
            assert_eq!((taken, done), (whole.len(), true), "{smuggled:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_read_to_its_end_and_dropped() {
        let mut content = Content::new(10);
        assert_eq!(content.feed(b"0123456789abcdef\r\nx\r\n.\r\n"), (24, true));
        assert_eq!(content.finish(), None);
    }

    #[test]
    fn subjects_are_read_as_people_see_them() {
        for (mail, expected) in [
            (&b"From: a\r\nSubject: Good  news\r\n today\r\nTo: b\r\n\r\nx"[..], "Good news today"),
            (b"SUBJECT: =?UTF-8?B?R3LDvMOfZQ==?=\r\n\r\n", "Grüße"),
            ("Subject: Grüße\r\n\r\n".as_bytes(), "Grüße"),
            (b"From: a\r\n\r\nSubject: none", ""),
            (b"", ""),
            (b"Subject:", ""),
        ] {
            assert_eq!(subject(mail), expected);
        }
    }
}
