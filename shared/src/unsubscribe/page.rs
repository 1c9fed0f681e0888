//! What stands behind an unsubscribe link: a page that does nothing by itself, and the answer to its buttons and to the
//! one click of a mail program (RFC 8058).

use mail_parser::{MessageParser, MimeHeaders};
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::Serialize;
use sqlx::PgPool;

use super::{Leave, Unsubscribe};
use crate::address;
use crate::keys::Keys;

/// An answer for a browser: no redirect, no cookie, nothing from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// A whole HTML document.
    pub html: String,
}

/// Headers of every page: it is nobody else's business who looks at it, and it needs nothing but its own style.
pub const HEADERS: [(&str, &str); 5] = [
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
];

/// Answers GET: the page with its buttons. Programs look at links too, so this changes nothing.
pub fn ask(keys: &Keys, token: &str) -> Page {
    match Unsubscribe::from_token(keys, token) {
        Ok(who) => question(&who, 200, None),
        Err(_) => unknown(),
    }
}

/// Answers POST: whoever has the link may leave, without a login.
pub async fn leave(
    db: &PgPool,
    keys: &Keys,
    token: &str,
    content_type: &str,
    body: &[u8],
) -> Result<Page, sqlx::Error> {
    let Ok(who) = Unsubscribe::from_token(keys, token) else { return Ok(unknown()) };
    let Some(leave) = read_form(content_type, body) else {
        return Ok(question(&who, 400, Some("That was not understood. Please use a button.")));
    };
    let mut tx = db.begin().await?;
    who.carry_out(&mut tx, leave).await?;
    tx.commit().await?;
    let what = match leave {
        Leave::List if !who.list.is_empty() => format!("No more mail of the list “{}” will be sent", who.list),
        Leave::List | Leave::AllMail => "No more mail will be sent".to_owned(),
    };
    let to = address::mask(&who.email_normalised);
    let paragraph = format!("{what} to {to}. A mail that is on its way right now may still arrive.");
    Ok(page(200, "You are unsubscribed", &[&paragraph], &[]))
}

/// What a posted form wants: the one click of RFC 8058, `List-Unsubscribe=One-Click`, which leaves the link's list, or a
/// button of the page. `None` for anything else: nobody leaves by a request that does not say so.
fn read_form(content_type: &str, body: &[u8]) -> Option<Leave> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("multipart/form-data") {
        // A form of this kind is built like a mail.
        let mail = [b"Content-Type: ", content_type.as_bytes(), b"\r\n\r\n", body].concat();
        let form = MessageParser::default().parse(&mail)?;
        return form.parts.iter().find_map(|part| {
            let name = part.content_disposition()?.attribute("name")?;
            read_field(name, std::str::from_utf8(part.contents()).ok()?.trim())
        });
    }
    form_urlencoded::parse(body).find_map(|(name, value)| read_field(&name, value.trim()))
}

fn read_field(name: &str, value: &str) -> Option<Leave> {
    match (name, value) {
        ("List-Unsubscribe", "One-Click") | ("leave", "list") => Some(Leave::List),
        ("leave", "all") => Some(Leave::AllMail),
        _ => None,
    }
}

#[derive(Serialize)]
struct Button {
    value: &'static str,
    label: String,
}

#[derive(Serialize)]
struct Content<'a> {
    title: &'a str,
    paragraphs: &'a [&'a str],
    buttons: &'a [Button],
}

fn question(who: &Unsubscribe, status: u16, notice: Option<&str>) -> Page {
    let to = format!("Which mail to {} shall stop?", address::mask(&who.email_normalised));
    let all = Button { value: "all", label: "Stop all mail".to_owned() };
    let buttons = if who.list.is_empty() {
        vec![all]
    } else {
        vec![Button { value: "list", label: format!("Stop mail of the list “{}”", who.list) }, all]
    };
    let paragraphs: Vec<&str> = notice.into_iter().chain([to.as_str()]).collect();
    page(status, "Unsubscribe", &paragraphs, &buttons)
}

fn unknown() -> Page {
    let paragraphs = [
        "This link is not complete, or it is too old.",
        "Please use the whole link of a newer mail, or answer the mail and ask its sender to stop.",
    ];
    page(404, "This link does not work", &paragraphs, &[])
}

fn page(status: u16, title: &str, paragraphs: &[&str], buttons: &[Button]) -> Page {
    // The name's ending has every value escaped.
    let content = Value::from(Serde(Content { title, paragraphs, buttons }));
    let html = Environment::new()
        .render_named_str("page.html", include_str!("page.html"), content)
        .expect("the page is a template of our own, and its values are texts");
    Page { status, html }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::parse("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").expect("key")
    }

    fn token(list: &str) -> String {
        let who = Unsubscribe { list: list.to_owned(), email_normalised: "annabel@example.test".to_owned() };
        who.link(&keys(), "").rsplit('/').next().expect("a token").to_owned()
    }

    #[test]
    fn the_page_offers_the_list_and_all_mail_and_gives_nothing_away() {
        let page = ask(&keys(), &token("<b>spring</b>"));
        assert_eq!(page.status, 200);
        assert!(page.html.contains("value=\"list\">Stop mail of the list “&lt;b&gt;spring&lt;"), "{}", page.html);
        assert!(page.html.contains("value=\"all\""), "{}", page.html);
        assert!(page.html.contains("an…@example.test") && !page.html.contains("annabel"), "{}", page.html);
        assert!(!page.html.contains("<script") && !page.html.contains("http"), "{}", page.html);
        let all = ask(&keys(), &token("")).html;
        assert!(all.contains("value=\"all\"") && !all.contains("value=\"list\""), "{all}");
    }

    #[test]
    fn a_forged_link_leads_nowhere() {
        let own = token("spring");
        let (start, rest) = own.split_at(60);
        let other = if rest.starts_with('A') { "B" } else { "A" };
        for forged in ["", "x", &own[1..], &format!("{start}{other}{}", &rest[1..])] {
            assert_eq!(ask(&keys(), forged).status, 404, "{forged}");
        }
    }

    #[test]
    fn a_form_says_what_it_wants_or_nothing_happens() {
        let url_encoded = "application/x-www-form-urlencoded";
        for (body, leave) in [
            ("List-Unsubscribe=One-Click", Some(Leave::List)),
            ("List%2DUnsubscribe=One%2DClick", Some(Leave::List)),
            ("leave=list", Some(Leave::List)),
            ("leave=all", Some(Leave::AllMail)),
            ("leave=", None),
            ("", None),
            ("List-Unsubscribe=no", None),
        ] {
            assert_eq!(read_form(url_encoded, body.as_bytes()), leave, "{body}");
        }
        let multipart =
            "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
        assert_eq!(read_form("multipart/form-data; boundary=b", multipart.as_bytes()), Some(Leave::List));
        assert_eq!(read_form("multipart/form-data; boundary=c", multipart.as_bytes()), None);
        assert_eq!(read_form("multipart/form-data", b"One-Click"), None);
    }
}
