//! Which route serves a request: the most specific path wins, then the method itself over `ANY`, `$default` last.

use std::cmp::Reverse;

use super::event::decode;
use crate::bundle;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
    /// `{name+}`: everything from here on, at least one character.
    Greedy(String),
}

#[derive(Debug)]
struct Entry {
    /// None for `$default`, which takes everything.
    pattern: Option<Vec<Segment>>,
    /// None for `ANY`.
    method: Option<String>,
    key: String,
    function: String,
}

/// A route that fits a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matched<'a> {
    /// `GET /x/{id}`, `ANY /{proxy+}` or `$default`.
    pub(super) key: &'a str,
    /// Logical id of the function.
    pub(super) function: &'a str,
    /// Path parameters, decoded.
    pub(super) parameters: Vec<(&'a str, String)>,
}

#[derive(Debug)]
pub(super) struct Routes(Vec<Entry>);

impl Routes {
    pub(super) fn new(routes: impl Iterator<Item = (bundle::Route, String)>) -> Self {
        let mut entries: Vec<_> = routes.map(|(route, function)| Entry::new(&route, function)).collect();
        entries.sort_by_key(Entry::rank);
        Self(entries)
    }

    pub(super) fn find(&self, method: &str, path: &str) -> Option<Matched<'_>> {
        self.0
            .iter()
            .filter(|entry| entry.method.as_deref().is_none_or(|only| only == method))
            .find_map(|entry| entry.matches(path))
    }
}

impl Entry {
    fn new(route: &bundle::Route, function: String) -> Self {
        if route.path == "$default" {
            return Self { pattern: None, method: None, key: "$default".to_owned(), function };
        }
        let pattern = segments(&route.path)
            .map(|text| match text.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => match name.strip_suffix('+') {
                    Some(name) => Segment::Greedy(name.to_owned()),
                    None => Segment::Parameter(name.to_owned()),
                },
                None => Segment::Literal(text.to_owned()),
            })
            .collect();
        let method = Some(route.method.to_ascii_uppercase()).filter(|method| !matches!(method.as_str(), "ANY" | "*"));
        let key = format!("{} {}", method.as_deref().unwrap_or("ANY"), route.path);
        Self { pattern: Some(pattern), method, key, function }
    }

    /// Lower ranks are tried first: segment by segment literal, parameter, greedy; the longer path; the method itself.
    fn rank(&self) -> (bool, bool, Vec<u8>, Reverse<usize>, bool) {
        let kinds: Vec<u8> = self.pattern.iter().flatten().map(Segment::rank).collect();
        let is_greedy = kinds.contains(&2);
        let length = kinds.len();
        (self.pattern.is_none(), is_greedy, kinds, Reverse(length), self.method.is_none())
    }

    fn matches(&self, path: &str) -> Option<Matched<'_>> {
        let mut parameters = Vec::new();
        if let Some(pattern) = &self.pattern {
            let mut rest = path.strip_prefix('/').unwrap_or(path);
            for (position, segment) in pattern.iter().enumerate() {
                let is_last = position + 1 == pattern.len();
                let (head, tail) = match rest.split_once('/') {
                    Some((head, tail)) => (head, Some(tail)),
                    None => (rest, None),
                };
                match segment {
                    Segment::Greedy(name) if !rest.is_empty() => {
                        parameters.push((name.as_str(), decode(rest, false)));
                        break;
                    }
                    Segment::Literal(text) if decode(head, false) == *text => {}
                    Segment::Parameter(name) if !head.is_empty() => {
                        parameters.push((name.as_str(), decode(head, false)));
                    }
                    Segment::Greedy(_) | Segment::Literal(_) | Segment::Parameter(_) => {
                        return None;
                    }
                }
                match tail {
                    Some(tail) if !is_last => rest = tail,
                    None if is_last => {}
                    Some(_) | None => return None,
                }
            }
        }
        Some(Matched { key: &self.key, function: &self.function, parameters })
    }
}

impl Segment {
    fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Parameter(_) => 1,
            Self::Greedy(_) => 2,
        }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(declared: &[&str]) -> Routes {
        Routes::new(declared.iter().map(|declared| {
            let (method, path) = declared.split_once(' ').unwrap_or(("ANY", declared));
            (bundle::Route { method: method.to_owned(), path: path.to_owned() }, (*declared).to_owned())
        }))
    }

    fn found<'a>(routes: &'a Routes, method: &str, path: &str) -> Option<&'a str> {
        routes.find(method, path).map(|matched| matched.key)
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order_of_the_template() {
        let routes = routes(&["$default", "ANY /{proxy+}", "GET /pets/{proxy+}", "GET /pets/{id}", "GET /pets/dog/1"]);
        assert_eq!(found(&routes, "GET", "/pets/dog/1"), Some("GET /pets/dog/1"));
        assert_eq!(found(&routes, "GET", "/pets/dog"), Some("GET /pets/{id}"));
        assert_eq!(found(&routes, "GET", "/pets/dog/2"), Some("GET /pets/{proxy+}"));
        assert_eq!(found(&routes, "POST", "/pets/dog/1"), Some("ANY /{proxy+}"));
        assert_eq!(found(&routes, "POST", "/"), Some("$default"));
    }

    #[test]
    fn a_method_of_its_own_wins_over_any_on_the_same_path() {
        let routes = routes(&["ANY /x/{id}", "PUT /x/{name}"]);
        assert_eq!(found(&routes, "PUT", "/x/1"), Some("PUT /x/{name}"));
        assert_eq!(found(&routes, "GET", "/x/1"), Some("ANY /x/{id}"));
    }

    #[test]
    fn paths_with_and_without_a_slash_at_the_end_are_different() {
        let routes = routes(&["GET /health", "GET /health/live/"]);
        assert_eq!(found(&routes, "GET", "/health"), Some("GET /health"));
        assert_eq!(found(&routes, "GET", "/health/"), None);
        assert_eq!(found(&routes, "GET", "/health/live"), None);
        assert_eq!(found(&routes, "GET", "/health/live/"), Some("GET /health/live/"));
        assert_eq!(found(&routes, "HEAD", "/health"), None);
    }

    #[test]
    fn path_parameters_arrive_decoded() {
        let routes = routes(&["GET /users/{id}/files/{path+}"]);
        let matched = routes.find("GET", "/users/a%20b/files/x/y%C3%A4.txt").expect("the route fits");
        assert_eq!(matched.parameters, [("id", "a b".to_owned()), ("path", "x/yä.txt".to_owned())]);
        assert_eq!(routes.find("GET", "/users//files/x"), None);
        assert_eq!(routes.find("GET", "/users/1/files/"), None);
    }

    #[test]
    fn the_root_is_a_path() {
        assert_eq!(found(&routes(&["GET /"]), "GET", "/"), Some("GET /"));
    }
}
