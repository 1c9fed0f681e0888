//! What every request meets: routes, keys, problems.

mod support;

use lambda_http::Body;
use shared::api_keys;
use shared::unsubscribe::Unsubscribe;
use sqlx::PgPool;
use support::{Api, bearer};

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn without_a_good_key_every_answer_is_the_same_401(db: PgPool) {
    let api = Api::new(db).await;
    assert_eq!(api.get("/campaigns").await.status, 200);
    let mut answers = vec![api.ask("GET /campaigns", &[], Body::Empty).await];
    for presented in [
        "Bearer".to_owned(),
        bearer(""),
        bearer("ns_1_0"),
        bearer("ns_99999999999999999999_0"),
        format!("Basic {}", api.read),
        bearer(&format!("{}0", api.read)),
    ] {
        answers.push(api.ask("GET /campaigns", &[("authorization", &presented)], Body::Empty).await);
    }
    assert!(api_keys::revoke(&api.ctx.db, "reader").await.expect("database"));
    answers.push(api.get("/campaigns").await);
    for answer in answers {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.body["detail"].as_str().expect("a detail").contains("local-runner api-key create"));
    }
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn other_paths_methods_and_parameters_are_refused_with_what_there_is(db: PgPool) {
    let api = Api::new(db).await;
    let answer = api.get("/nothing").await;
    assert_eq!((answer.status, &answer.body["title"]), (404, &"Not Found".into()));
    let answer = api.ask("PUT /campaigns", &[("authorization", &bearer(&api.operate))], Body::Empty).await;
    assert_eq!(answer.status, 405);
    assert!(answer.headers["allow"].to_str().expect("text").contains("GET"));
    let answer = api.get("/campaigns?page=2").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body["detail"].as_str().expect("a detail").contains("limit, before"), "{}", answer.body);
    assert_eq!(api.get("/campaigns?limit=0").await.status, 422);
    assert_eq!(api.get("/campaigns?before=x").await.status, 422);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn the_link_in_a_mail_asks_first_and_leaves_at_one_click(db: PgPool) {
    let api = Api::new(db).await;
    let who = Unsubscribe { list: "news".to_owned(), email_normalised: "ann@a.test".to_owned() };
    let path = who.link(&api.ctx.keys, "").replace('=', "%3D");
    let left = async || {
        sqlx::query_scalar::<_, i64>("select count(*) from nightshift.suppressions where list = 'news'")
            .fetch_one(&api.ctx.db)
            .await
            .expect("database")
    };
    let page = api.ask(&format!("GET {path}"), &[], Body::Empty).await;
    assert_eq!(
        (page.status, &page.headers["content-type"]),
        (200, &"text/html; charset=utf-8".parse().expect("value"))
    );
    assert!(page.body.as_str().expect("a page").contains("<form"), "{}", page.body);
    assert_eq!(left().await, 0, "looking changes nothing");

    let form = [("content-type", "application/x-www-form-urlencoded")];
    for _ in 0..2 {
        let done = api.ask(&format!("POST {path}"), &form, "List-Unsubscribe=One-Click").await;
        assert_eq!(done.status, 200);
        assert!(!done.headers.contains_key("set-cookie") && !done.headers.contains_key("location"));
    }
    assert_eq!(left().await, 1);
    assert_eq!(api.ask("POST /unsubscribe/forged", &form, "List-Unsubscribe=One-Click").await.status, 404);
    assert_eq!(api.ask(&format!("DELETE {path}"), &[], Body::Empty).await.status, 405);
}
