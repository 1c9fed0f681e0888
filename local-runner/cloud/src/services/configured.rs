//! URLs that somebody set, in the environment or in the project's `.env`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::ServicesError;

/// What is set; an empty value counts as not set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Urls {
    pub(super) database: Option<String>,
    pub(super) redis: Option<String>,
}

impl Urls {
    /// The environment wins over the file.
    pub(super) fn find(environment: &BTreeMap<String, String>, project: &Path) -> Result<Self, ServicesError> {
        let path = project.join(".env");
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(ServicesError::EnvFile { path, source }),
        };
        let set = |name: &str| {
            [environment, &file]
                .into_iter()
                .filter_map(|variables| variables.get(name))
                .find(|value| !value.is_empty())
                .cloned()
        };
        Ok(Self { database: set("DATABASE_URL"), redis: set("REDIS_URL") })
    }
}

/// `NAME=value` per line, `export` before it, quotes around the value and a comment after a blank are understood.
fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start_matches('\u{feff}').trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            let name = name.trim();
            (!name.starts_with('#')).then(|| (name.to_owned(), unquote(value.trim()).to_owned()))
        })
        .collect()
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.split_once(quote).map_or(rest, |(inner, _)| inner);
        }
    }
    value.split(" #").next().unwrap_or(value).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_an_env_file_is_read_as_shells_read_it() {
        let text = "# a comment\n\nDATABASE_URL = postgres://a@b/c # mine\nexport REDIS_URL='redis://x/0#1'\r\nX=\"a b\" # c\nnothing\n#OFF=1";
        let expected = [("DATABASE_URL", "postgres://a@b/c"), ("REDIS_URL", "redis://x/0#1"), ("X", "a b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text), BTreeMap::from(expected));
    }

    #[test]
    fn the_environment_wins_over_the_file_and_empty_is_not_set() {
        let project = tempfile::tempdir().expect("a folder");
        std::fs::write(project.path().join(".env"), "DATABASE_URL=postgres://file\nREDIS_URL=redis://file\n")
            .expect("can be written");
        let environment = BTreeMap::from([
            ("DATABASE_URL".to_owned(), "postgres://environment".to_owned()),
            ("REDIS_URL".to_owned(), String::new()),
        ]);
        let urls = Urls::find(&environment, project.path()).expect("readable");
        assert_eq!(urls.database.as_deref(), Some("postgres://environment"));
        assert_eq!(urls.redis.as_deref(), Some("redis://file"));
    }
}
