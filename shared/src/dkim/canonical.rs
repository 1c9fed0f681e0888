//! The "relaxed" forms of RFC 6376, 3.4: what is signed instead of the bytes themselves.

use aws_lc_rs::digest::{Context, Digest, SHA256};

/// The headers of a mail, each with its folds.
pub(super) struct Headers<'a>(Vec<&'a str>);

impl<'a> Headers<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let mut headers = vec![];
        let mut start = 0;
        for (end, _) in text.match_indices("\r\n") {
            if !text[end + 2..].starts_with([' ', '\t']) {
                headers.push(&text[start..end]);
                start = end + 2;
            }
        }
        headers.push(&text[start..]);
        Self(headers)
    }

    /// The names for `h=`, and the canonical text of the headers that they stand for. Each name comes once more than it
    /// is in the mail; of several with one name the last is taken first (RFC 6376, 5.4.2).
    pub(super) fn covered(&self, names: &[&'static str]) -> (Vec<&'static str>, String) {
        let (mut covered, mut text) = (vec![], String::new());
        for name in names {
            for one in self.0.iter().rev().filter(|header| name_of(header).eq_ignore_ascii_case(name)) {
                covered.push(*name);
                text += &header(one);
            }
            covered.push(*name);
        }
        (covered, text)
    }
}

fn name_of(header: &str) -> &str {
    header.split(':').next().unwrap_or_default().trim_end()
}

/// A header with its name in lower case, on one line, each run of white space one space, none at the ends.
pub(super) fn header(header: &str) -> String {
    let (name, value) = header.split_once(':').unwrap_or((header, ""));
    let words: Vec<&str> = value.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty()).collect();
    format!("{}:{}\r\n", name.trim_end().to_ascii_lowercase(), words.join(" "))
}

/// SHA-256 of the body with each run of white space one space, none at the ends of lines, and no empty lines at its end.
pub(super) fn body_hash(body: &str) -> Digest {
    let mut hash = Context::new(&SHA256);
    let mut empty_lines = 0;
    let mut line_end_due = false;
    for line in body.split("\r\n") {
        let line = line.trim_end_matches([' ', '\t']);
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) + usize::from(line_end_due) {
            hash.update(b"\r\n");
        }
        line_end_due = true;
        let mut rest = line.as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b' ' | b'\t')) {
            hash.update(&rest[..at]);
            hash.update(b" ");
            let space = rest[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            rest = &rest[at + space..];
        }
        hash.update(rest);
    }
    if line_end_due {
        hash.update(b"\r\n");
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(body: &str, canonical: &str) {
        let expected = aws_lc_rs::digest::digest(&SHA256, canonical.as_bytes());
        assert_eq!(body_hash(body).as_ref(), expected.as_ref(), "{body:?}");
    }

    #[test]
    fn a_body_is_hashed_without_what_may_change_on_the_way() {
        same(" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n");
        same("no line end", "no line end\r\n");
        same("\r\n\r\nfirst\r\n\r\nlast\r\n", "\r\n\r\nfirst\r\n\r\nlast\r\n");
        same("", "");
        same("\r\n \r\n", "");
    }

    #[test]
    fn a_header_is_taken_without_folds_and_case_of_its_name() {
        assert_eq!(header("SUBJect :  A\r\n\t  folded \t line  "), "subject:A folded line\r\n");
        let headers = Headers::parse("A: X\r\nB : Y\t\r\n\tZ  \r\na: W");
        let (names, text) = headers.covered(&["a", "b", "c"]);
        assert_eq!(names, ["a", "a", "a", "b", "b", "c"]);
        assert_eq!(text, "a:W\r\na:X\r\nb:Y Z\r\n");
    }
}
