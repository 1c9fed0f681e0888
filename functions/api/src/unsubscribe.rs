//! `/unsubscribe/{token}`: the pages behind the links in mails. What they do is `shared::unsubscribe`; here they get a URL.

use lambda_http::http::StatusCode;
use shared::unsubscribe::{self, Page};

use crate::Ctx;
use crate::call::{Call, Reply};
use crate::problem::Problem;

/// GET: a page that changes nothing by itself.
pub(crate) async fn ask(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    reply(unsubscribe::ask(&ctx.keys, &token(call)))
}

/// POST: one click (RFC 8058), or one of the page's buttons.
pub(crate) async fn leave(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let content_type = call.header("content-type").unwrap_or_default();
    reply(unsubscribe::leave(&ctx.db, &ctx.keys, &token(call), content_type, call.body()).await?)
}

/// Tokens end with `=`, which some programs write as an escape.
fn token(call: &Call) -> String {
    call.text().replace("%3D", "=").replace("%3d", "=")
}

fn reply(page: Page) -> Result<Reply, Problem> {
    let status = StatusCode::from_u16(page.status).map_err(|error| Problem::internal(&error.into()))?;
    Ok(Reply::page(status, page.html))
}
