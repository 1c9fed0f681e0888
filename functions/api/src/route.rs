//! The routes: which there are, who may use them, and how they are documented. The only table of them.

use futures_util::future::BoxFuture;
use lambda_http::http::Method;
use shared::api_keys::Scope;

use crate::call::{Call, Reply};
use crate::problem::Problem;
use crate::{Ctx, campaigns, openapi, unsubscribe};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches it.
    Everybody,
    /// Whoever has a key with this scope.
    Key(Scope),
}

/// A parameter of the query string.
#[derive(Debug, Clone, Copy)]
pub struct QueryParameter {
    /// Its name.
    pub name: &'static str,
    /// `integer` or `string`.
    pub kind: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// Answers a call.
pub type Handler = for<'a> fn(&'a Ctx, &'a Call) -> BoxFuture<'a, Result<Reply, Problem>>;

/// A route.
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// One segment may be a parameter: `/campaigns/{id}`.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Parameters of the query string that it knows; others are refused.
    pub query: &'static [QueryParameter],
    /// It makes something new, so it takes an `Idempotency-Key`.
    pub creates: bool,
    /// Schema of its JSON body, in `schemas.json`.
    pub body: Option<&'static str>,
    /// Status and schema of its answer; [`PAGE`] is no schema but HTML.
    pub answer: (u16, &'static str),
    /// Does it.
    pub handler: Handler,
}

/// The answer is a page for people.
pub const PAGE: &str = "a page";

const READ: Access = Access::Key(Scope::Read);
const OPERATE: Access = Access::Key(Scope::Operate);

const LIMIT: QueryParameter =
    QueryParameter { name: "limit", kind: "integer", about: "Most entries in the answer, 1 to 1000; 100 by default" };
const BEFORE: QueryParameter = QueryParameter {
    name: "before",
    kind: "integer",
    about: "Only campaigns with a smaller number: `next` of the last page",
};
const AFTER: QueryParameter =
    QueryParameter { name: "after", kind: "string", about: "Only mails behind this address: `next` of the last page" };
const STATE: QueryParameter = QueryParameter {
    name: "state",
    kind: "string",
    about: "Only mails in this state: pending, sending, sent, refused, deferred, uncertain, suppressed or cancelled",
};

/// All routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/openapi.json",
        access: Access::Everybody,
        summary: "This document",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "OpenApi"),
        handler: |_, _| Box::pin(async { Reply::ok(&openapi::document()) }),
    },
    Route {
        method: "GET",
        path: "/campaigns",
        access: READ,
        summary: "List campaigns, the newest first",
        query: &[LIMIT, BEFORE],
        creates: false,
        body: None,
        answer: (200, "Campaigns"),
        handler: |ctx, call| Box::pin(campaigns::list(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns",
        access: OPERATE,
        summary: "Create a draft, with recipients or without",
        query: &[],
        creates: true,
        body: Some("NewCampaign"),
        answer: (201, "Added"),
        handler: |ctx, call| Box::pin(campaigns::create(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/recipients",
        access: OPERATE,
        summary: "Add recipients to a draft: a CSV file, or a JSON array",
        query: &[],
        creates: true,
        body: Some("Recipients"),
        answer: (200, "Added"),
        handler: |ctx, call| Box::pin(campaigns::add_recipients(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/start",
        access: OPERATE,
        summary: "Let a draft go, at once or at a time",
        query: &[],
        creates: false,
        body: Some("Start"),
        answer: (200, "Progress"),
        handler: |ctx, call| Box::pin(campaigns::start(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/pause",
        access: OPERATE,
        summary: "Hold a campaign back; at most the mails in flight still leave",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Progress"),
        handler: |ctx, call| Box::pin(campaigns::pause(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/resume",
        access: OPERATE,
        summary: "Let a paused campaign go on",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Progress"),
        handler: |ctx, call| Box::pin(campaigns::resume(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/cancel",
        access: OPERATE,
        summary: "End a campaign for good; at most the mails in flight still leave",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Progress"),
        handler: |ctx, call| Box::pin(campaigns::cancel(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/retry-failed",
        access: OPERATE,
        summary: "Send the refused mails again, and no others",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Retried"),
        handler: |ctx, call| Box::pin(campaigns::retry_failed(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/clone",
        access: OPERATE,
        summary: "Make a draft with the same content",
        query: &[],
        creates: true,
        body: Some("Clone"),
        answer: (201, "Cloned"),
        handler: |ctx, call| Box::pin(campaigns::clone(ctx, call)),
    },
    Route {
        method: "GET",
        path: "/campaigns/{id}/progress",
        access: READ,
        summary: "How far a campaign is, and why it waits",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Progress"),
        handler: |ctx, call| Box::pin(campaigns::progress(ctx, call)),
    },
    Route {
        method: "GET",
        path: "/campaigns/{id}/receipt",
        access: READ,
        summary: "What became of every mail, and whether the books balance",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Receipt"),
        handler: |ctx, call| Box::pin(campaigns::receipt(ctx, call)),
    },
    Route {
        method: "GET",
        path: "/campaigns/{id}/deliveries",
        access: READ,
        summary: "The mails of a campaign, by address",
        query: &[LIMIT, AFTER, STATE],
        creates: false,
        body: None,
        answer: (200, "Deliveries"),
        handler: |ctx, call| Box::pin(campaigns::deliveries(ctx, call)),
    },
    Route {
        method: "GET",
        path: "/campaigns/{id}/uncertain",
        access: READ,
        summary: "Mails that were handed over without a recorded answer",
        query: &[],
        creates: false,
        body: None,
        answer: (200, "Doubts"),
        handler: |ctx, call| Box::pin(campaigns::list_uncertain(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/campaigns/{id}/uncertain/resolve",
        access: OPERATE,
        summary: "Say what became of them, or send them again",
        query: &[],
        creates: false,
        body: Some("Resolve"),
        answer: (200, "Resolved"),
        handler: |ctx, call| Box::pin(campaigns::resolve_uncertain(ctx, call)),
    },
    Route {
        method: "GET",
        path: "/unsubscribe/{token}",
        access: Access::Everybody,
        summary: "The page behind the link in a mail; changes nothing",
        query: &[],
        creates: false,
        body: None,
        answer: (200, PAGE),
        handler: |ctx, call| Box::pin(unsubscribe::ask(ctx, call)),
    },
    Route {
        method: "POST",
        path: "/unsubscribe/{token}",
        access: Access::Everybody,
        summary: "Leave the link's list at one click (RFC 8058), or all mail",
        query: &[],
        creates: false,
        body: Some("Unsubscribe"),
        answer: (200, PAGE),
        handler: |ctx, call| Box::pin(unsubscribe::leave(ctx, call)),
    },
];

/// The route for a request, and the parameter in its path.
pub(crate) fn find(method: &Method, path: &str) -> Result<(&'static Route, Option<String>), Problem> {
    let fitting: Vec<_> =
        ROUTES.iter().filter_map(|route| matches(route.path, path).map(|parameter| (route, parameter))).collect();
    if fitting.is_empty() {
        return Err(Problem::not_found(format!("there is no {path}; /openapi.json says what there is")));
    }
    let allowed: Vec<&str> = fitting.iter().map(|(route, _)| route.method).collect();
    fitting
        .iter()
        .find(|(route, _)| route.method == method.as_str())
        .map(|(route, parameter)| (*route, parameter.map(str::to_owned)))
        .ok_or_else(|| Problem::method_not_allowed(&allowed.join(", ")))
}

/// `None`: another path. `Some(None)`: this one, without a parameter.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<Option<&'a str>> {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    let mut parameter = None;
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(parameter),
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => parameter = Some(given),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_path_fits_its_pattern_and_no_other() {
        assert_eq!(matches("/campaigns", "/campaigns"), Some(None));
        assert_eq!(matches("/campaigns/{id}/start", "/campaigns/7/start"), Some(Some("7")));
        for other in
            ["/campaigns", "/campaigns/", "/campaigns/7", "/campaigns//start", "/campaigns/7/start/", "/x/7/start"]
        {
            assert_eq!(matches("/campaigns/{id}/start", other), None, "{other}");
        }
    }
}
