//! SMTP on a wire: each write and each burst of replies is an effect, named by the commands in it.

use super::Side;
use super::line::Protocol;

/// The content's end.
const END_OF_CONTENT: &[u8] = b"\r\n.\r\n";

#[derive(Default)]
pub(super) struct Smtp {
    in_content: bool,
    /// End of the content that was seen so far, in case its final dot is cut in two.
    tail: Vec<u8>,
    /// What was written last.
    said: Option<String>,
}

impl Protocol for Smtp {
    fn see(&mut self, side: Side, bytes: &[u8]) -> Option<String> {
        match side {
            Side::Sent => {
                let said = format!("SMTP {}", self.read_write(bytes).join("+"));
                self.said = Some(said.clone());
                Some(said)
            }
            Side::Answered => {
                let lines = || bytes.split(|&byte| byte == b'\n');
                self.in_content |= lines().any(|line| line.starts_with(b"354"));
                Some(self.said.clone().unwrap_or_else(|| "SMTP greeting".to_owned()))
            }
        }
    }
}

impl Smtp {
    /// The parts of one write: content, and commands by their verbs.
    fn read_write(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut parts = vec![];
        let mut commands = bytes;
        if self.in_content {
            parts.push("content".to_owned());
            let before = self.tail.len();
            let mut content = std::mem::take(&mut self.tail);
            content.extend_from_slice(bytes);
            let end = match content.strip_prefix(b".\r\n") {
                Some(_) if before == 0 => Some(3),
                _ => content
                    .windows(END_OF_CONTENT.len())
                    .position(|window| window == END_OF_CONTENT)
                    .map(|start| start + END_OF_CONTENT.len()),
            };
            let Some(end) = end else {
                self.tail = content[content.len().saturating_sub(END_OF_CONTENT.len() - 1)..].to_vec();
                return parts;
            };
            self.in_content = false;
            commands = &bytes[end - before..];
        }
        for line in commands.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let verb = line.split(|byte| b" :\r".contains(byte)).next().unwrap_or_default();
            parts.push(String::from_utf8_lossy(verb).to_ascii_uppercase());
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_named_by_what_is_in_them_also_when_content_opens_a_group() {
        let mut smtp = Smtp::default();
        let mut see = |side, text: &str| smtp.see(side, text.as_bytes()).expect("every write and reply counts");
        assert_eq!(see(Side::Answered, "220 hello\r\n"), "SMTP greeting");
        assert_eq!(see(Side::Sent, "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"), "SMTP MAIL+RCPT+DATA");
        assert_eq!(see(Side::Answered, "250 a\r\n250 b\r\n354 c\r\n"), "SMTP MAIL+RCPT+DATA");
        assert_eq!(see(Side::Sent, "Subject: MAIL\r\n\r\nRSET\r\n."), "SMTP content");
        assert_eq!(see(Side::Sent, "\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"), "SMTP content+MAIL+RCPT+DATA");
        assert_eq!(see(Side::Answered, "250 a\r\n250 b\r\n250 c\r\n354 d\r\n"), "SMTP content+MAIL+RCPT+DATA");
        assert_eq!(see(Side::Sent, "x\r\n.\r\nQUIT\r\n"), "SMTP content+QUIT");
    }
}
