//! One line of an SMTP client, understood.

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Helo { extended: bool },
    Mail(Path),
    Rcpt(Path),
    Data,
    Rset,
    Noop,
    Help,
    Vrfy,
    Auth { mechanism: String, initial: Option<String> },
    Quit,
}

/// Address and parameters of `MAIL` and `RCPT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// Without brackets and source route; empty for the null sender.
    pub(super) address: String,
    /// `SIZE` in bytes.
    pub(super) size: Option<u64>,
    pub(super) utf8: bool,
}

/// Understands a line without its line end; the error is the reply.
pub(super) fn parse(line: &[u8]) -> Result<Command, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "500 5.5.2 Not UTF-8")?;
    let line = line.trim_end();
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let plain = |command| {
        if rest.is_empty() { Ok(command) } else { Err("501 5.5.4 No parameters allowed") }
    };
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" | "HELO" if rest.is_empty() => Err("501 5.5.4 Say who you are"),
        "EHLO" => Ok(Command::Helo { extended: true }),
        "HELO" => Ok(Command::Helo { extended: false }),
        "MAIL" => path(rest, "FROM:", true).map(Command::Mail),
        "RCPT" => path(rest, "TO:", false).map(Command::Rcpt),
        "DATA" => plain(Command::Data),
        "RSET" => plain(Command::Rset),
        "NOOP" => Ok(Command::Noop),
        "HELP" => Ok(Command::Help),
        "VRFY" => Ok(Command::Vrfy),
        "QUIT" => plain(Command::Quit),
        "AUTH" => {
            let mut words = rest.split_ascii_whitespace();
            let mechanism = words.next().ok_or("501 5.5.4 Which mechanism?")?.to_ascii_uppercase();
            Ok(Command::Auth { mechanism, initial: words.next().map(str::to_owned) })
        }
        "EXPN" | "STARTTLS" | "TURN" | "ETRN" | "BDAT" => Err("502 5.5.1 Not offered"),
        _ => Err("500 5.5.2 Unknown command"),
    }
}

fn path(rest: &str, keyword: &str, sender: bool) -> Result<Path, &'static str> {
    const SYNTAX: &str = "501 5.5.4 The address belongs in angle brackets";
    let (head, rest) = rest.split_at_checked(keyword.len()).ok_or(SYNTAX)?;
    if !head.eq_ignore_ascii_case(keyword) {
        return Err(SYNTAX);
    }
    let rest = rest.trim_start().strip_prefix('<').ok_or(SYNTAX)?;
    let end = closing_bracket(rest).ok_or(SYNTAX)?;
    let (address, parameters) = (&rest[..end], &rest[end + 1..]);
    // A source route (`@relay,@relay:address`) is to be ignored.
    let address = match address.strip_prefix('@').and_then(|route| route.split_once(':')) {
        Some((_, address)) => address,
        None => address,
    };
    check_address(address, sender)?;
    let mut path = Path { address: address.to_owned(), size: None, utf8: false };
    for parameter in parameters.split_ascii_whitespace() {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_uppercase().as_str() {
            "SIZE" if sender => path.size = Some(value.parse().map_err(|_| "501 5.5.4 SIZE is a number of bytes")?),
            "BODY" if sender && ["7BIT", "8BITMIME"].iter().any(|body| value.eq_ignore_ascii_case(body)) => {}
            "SMTPUTF8" if sender && value.is_empty() => path.utf8 = true,
            "AUTH" if sender => {}
            _ => return Err("555 5.5.4 Unknown parameter"),
        }
    }
    Ok(path)
}

/// A quoted local part may contain the bracket.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(index),
            _ => {}
        }
    }
    None
}

fn check_address(address: &str, sender: bool) -> Result<(), &'static str> {
    if (address.is_empty() && sender) || (address.eq_ignore_ascii_case("postmaster") && !sender) {
        return Ok(());
    }
    if address.len() > 320 || address.chars().any(char::is_control) {
        return Err("553 5.1.3 Not an address");
    }
    match address.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => {
            let quoted = local.starts_with('"') && local.ends_with('"') && local.len() > 1;
            let blank = |c: char| c.is_whitespace() || matches!(c, '<' | '>');
            if domain.contains(blank) || (!quoted && local.contains(blank)) {
                return Err("553 5.1.3 Not an address");
            }
            Ok(())
        }
        _ => Err("553 5.1.3 An address has a local part and a domain"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(line: &str) -> Result<String, &'static str> {
        match parse(line.as_bytes())? {
            Command::Mail(path) | Command::Rcpt(path) => Ok(path.address),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_found_in_their_brackets() {
        for (line, expected) in [
            ("MAIL FROM:<>", ""),
            ("mail from:<ann@x.test> SIZE=12 BODY=8BITMIME", "ann@x.test"),
            ("MAIL FROM: <ann@x.test> AUTH=<>", "ann@x.test"),
            ("RCPT TO:<@relay.test,@other.test:bob@x.test>", "bob@x.test"),
            (r#"RCPT TO:<"a > b\" c"@x.test>"#, r#""a > b\" c"@x.test"#),
            ("RCPT TO:<postmaster>", "postmaster"),
            ("RCPT TO:<jürgen@bücher.test>", "jürgen@bücher.test"),
        ] {
            assert_eq!(address(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for line in [
            "MAIL FROM:ann@x.test",
            "MAIL FROM:<ann@x.test",
            "MAIL FROM:<ann>",
            "MAIL FROM:<@>",
            "RCPT TO:<>",
            "RCPT TO:<a b@x.test>",
            "RCPT TO:<ann@x.test> NOTIFY=NEVER",
            "MAIL FROM:<ann@x.test> SIZE=many",
            "MAIL",
            "RCPT ü:<>",
        ] {
            let reply = address(line).expect_err("must be refused");
            assert!(reply.starts_with("50") || reply.starts_with("55"), "{line}: {reply}");
        }
    }
}
