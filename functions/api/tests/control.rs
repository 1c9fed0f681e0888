//! Campaigns over HTTP, on the ledger, with nobody who sends.

mod support;

use api::route::Access;
use lambda_http::Body;
use serde_json::{Value, json};
use shared::accounts::{self, NewAccount, Security};
use shared::campaigns;
use sqlx::PgPool;
use support::{Answer, Api, bearer};

async fn api(db: PgPool) -> Api {
    let account = NewAccount {
        name: "news".to_owned(),
        host: "localhost".to_owned(),
        port: 25,
        security: Security::Plain,
        credentials: None,
        from_email: "news@example.test".to_owned(),
        from_name: None,
        reply_to: None,
        time_zone: "UTC".to_owned(),
        max_connections: 4,
    };
    accounts::add(&db, None, &account, false).await.expect("account").expect("new");
    Api::new(db).await
}

fn draft(recipients: usize) -> Value {
    let recipients: Vec<Value> = (0..recipients)
        .map(|number| json!({"email": format!("r{number}@example.test"), "fields": {"name": "Ann"}}))
        .collect();
    json!({
        "name": "Spring", "account": "news", "subject": "Hi {{ name }}", "html": "<p>{{ name }}</p>",
        "recipients": recipients,
    })
}

async fn post_as(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    let headers =
        [("authorization", &*bearer(&api.operate)), ("content-type", "application/json"), ("idempotency-key", key)];
    api.ask(&format!("POST {path}"), &headers, Body::from(body.to_string())).await
}

async fn post(api: &Api, path: &str, body: &Value) -> Answer {
    let headers = [("authorization", &*bearer(&api.operate)), ("content-type", "application/json")];
    api.ask(&format!("POST {path}"), &headers, Body::from(body.to_string())).await
}

async fn sending(api: &Api, recipients: usize) -> String {
    let made = post(api, "/campaigns", &draft(recipients)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let path = format!("/campaigns/{}", made.body["campaign_id"]);
    assert_eq!(post(api, &format!("{path}/start"), &json!({})).await.status, 200);
    campaigns::plan_next_due(&api.ctx.db, chrono::Utc::now(), 3).await.expect("plan").expect("due").expect("sound");
    path
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn the_same_request_creates_once_and_another_with_its_key_is_refused(db: PgPool) {
    let api = api(db).await;
    let draft_of_two = draft(2);
    let (one, again) =
        tokio::join!(post_as(&api, "/campaigns", "k", &draft_of_two), post_as(&api, "/campaigns", "k", &draft_of_two));
    assert_eq!((one.status, again.status), (201, 201), "{} {}", one.body, again.body);
    assert_eq!(one.body, again.body);
    let replayed = [&one, &again].iter().filter(|answer| answer.headers.contains_key("idempotency-replayed")).count();
    assert_eq!(replayed, 1);
    assert_eq!(post_as(&api, "/campaigns", "k", &draft(3)).await.status, 422);
    assert_eq!(api.get("/campaigns").await.body["campaigns"].as_array().expect("a list").len(), 1);

    let broken = json!({"name": "x", "account": "nobody", "subject": "x", "html": "x"});
    assert_eq!(post_as(&api, "/campaigns", "k2", &broken).await.status, 422);
    assert_eq!(post_as(&api, "/campaigns", "k2", &draft(1)).await.status, 201, "what failed is not kept");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_read_only_key_changes_nothing(db: PgPool) {
    let api = api(db).await;
    let path = sending(&api, 2).await;
    let before = api.get(&format!("{path}/receipt")).await.body;
    let (open, closed): (Vec<_>, Vec<_>) = api::route::ROUTES
        .iter()
        .filter(|route| route.method == "POST")
        .partition(|route| route.access == Access::Everybody);
    let open: Vec<_> = open.iter().map(|route| route.path).collect();
    assert_eq!(open, ["/unsubscribe/{token}"], "whoever has the link may leave; nobody else may change anything");
    for route in closed {
        let target = route.path.replace("/campaigns/{id}", &path);
        let headers = [("authorization", &*bearer(&api.read)), ("content-type", "application/json")];
        let answer = api.ask(&format!("POST {target}"), &headers, Body::from(draft(1).to_string())).await;
        assert_eq!(answer.status, 403, "{target}");
        let answer = api.ask(&format!("POST {target}"), &[], Body::from(draft(1).to_string())).await;
        assert_eq!(answer.status, 401, "{target}");
    }
    assert_eq!(api.get(&format!("{path}/receipt")).await.body, before);
    assert_eq!(api.get("/campaigns").await.body["campaigns"].as_array().expect("a list").len(), 1);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn recipients_come_in_pieces_and_bad_rows_are_named(db: PgPool) {
    let api = api(db).await;
    let made = post(&api, "/campaigns", &draft(1)).await;
    let path = format!("/campaigns/{}/recipients", made.body["campaign_id"]);
    let authorization = bearer(&api.operate);
    for _ in 0..2 {
        let headers = [("authorization", &*authorization), ("content-type", "text/csv; charset=utf-8")];
        let csv = "email,name\nbob@example.test,Bob\nnobody,Nobody\n";
        let answer = api.ask(&format!("POST {path}"), &headers, Body::from(csv)).await;
        assert_eq!((&answer.body["imported"], &answer.body["rejected"]), (&1.into(), &1.into()), "{}", answer.body);
        assert_eq!(answer.body["rejects"][0]["line"], 3);
    }
    let answer = post(&api, &path, &json!([{"email": "eve@example.test"}, {"email": "x"}])).await;
    assert_eq!((&answer.body["imported"], &answer.body["rejects"][0]["line"]), (&1.into(), &2.into()));

    let start = path.replace("recipients", "start");
    let answer = post(&api, &start, &json!({})).await;
    assert_eq!(answer.status, 422, "eve has no name: {}", answer.body);
    assert_eq!(post(&api, &start, &json!({"at": "2026-12-24T09:00"})).await.status, 422);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_is_paused_resumed_and_cancelled_and_its_books_balance(db: PgPool) {
    let api = api(db).await;
    let path = sending(&api, 10).await;
    assert_eq!(post(&api, &format!("{path}/resume"), &json!({})).await.status, 409);
    assert_eq!(post(&api, &format!("{path}/pause"), &json!({})).await.body["status"], "paused");
    assert_eq!(post(&api, &format!("{path}/pause"), &json!({})).await.status, 200, "twice is harmless");
    assert_eq!(post(&api, &format!("{path}/resume"), &json!({})).await.body["status"], "sending");

    // One mail is in flight, one was refused, one sent.
    for (state, cause, number) in [("sending", None, 0), ("refused", Some("address"), 1), ("sent", None, 2)] {
        sqlx::query(
            "update nightshift.deliveries set state = $1, cause = $2, attempt_token = gen_random_uuid() where email = $3",
        )
        .bind(state)
        .bind(cause)
        .bind(format!("r{number}@example.test"))
        .execute(&api.ctx.db)
        .await
        .expect("a state");
    }
    let answer = post(&api, &format!("{path}/cancel"), &json!({})).await;
    let counts = ["status", "cancelled", "open", "refused", "sent"].map(|name| answer.body[name].clone());
    assert_eq!(Value::from(counts.to_vec()), json!(["cancelled", 7, 1, 1, 1]), "{}", answer.body);
    assert_eq!(post(&api, &format!("{path}/cancel"), &json!({})).await.status, 200, "twice is harmless");
    assert_eq!(post(&api, &format!("{path}/resume"), &json!({})).await.status, 409);
    assert_eq!(post(&api, &format!("{path}/retry-failed"), &json!({})).await.status, 409);
    assert_eq!(api.get(&format!("{path}/receipt")).await.body["balances"], true);

    // The one in flight is given back unsent: the next round takes it too, and every batch is finished then.
    sqlx::query("update nightshift.deliveries set state = 'deferred', next_attempt_at = now() where state = 'sending'")
        .execute(&api.ctx.db)
        .await
        .expect("deferred");
    assert_eq!(campaigns::cancel_open(&api.ctx.db, || false).await.expect("cancelled"), 1);
    let open: i64 = sqlx::query_scalar("select count(*) from nightshift.batches where finished_at is null")
        .fetch_one(&api.ctx.db)
        .await
        .expect("count");
    assert_eq!(open, 0);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn only_the_refused_mails_are_sent_again_and_a_clone_has_everybody(db: PgPool) {
    let api = api(db).await;
    let path = sending(&api, 5).await;
    assert_eq!(post(&api, &format!("{path}/retry-failed"), &json!({})).await.status, 409, "none was refused");
    for statement in [
        "update nightshift.deliveries set state = 'sent'",
        "update nightshift.deliveries set state = 'refused', cause = 'expired', attempts = 9 where email like 'r_@%' and \
         email < 'r2'",
        "update nightshift.batches set finished_at = now()",
    ] {
        sqlx::query(statement).execute(&api.ctx.db).await.expect(statement);
    }
    assert_eq!(campaigns::close_finished(&api.ctx.db).await.expect("close").len(), 1);
    let answer = post(&api, &format!("{path}/retry-failed"), &json!({})).await;
    assert_eq!(answer.body, json!({"deliveries": 2, "reopened": true}));
    let progress = api.get(&format!("{path}/progress")).await.body;
    assert_eq!((&progress["open"], &progress["sent"], &progress["status"]), (&2.into(), &3.into(), &"sending".into()));

    let answer = post(&api, &format!("{path}/clone"), &json!({"name": "Again", "recipients": true})).await;
    assert_eq!(answer.status, 201);
    let clone = api.get(&format!("/campaigns/{}/progress", answer.body["campaign_id"])).await.body;
    assert_eq!((&clone["name"], &clone["imported"], &clone["status"]), (&"Again".into(), &5.into(), &"draft".into()));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn deliveries_are_paged_and_lead_to_the_end(db: PgPool) {
    let api = api(db).await;
    let path = sending(&api, 5).await;
    let (mut seen, mut after) = (vec![], String::new());
    loop {
        let page = api.get(&format!("{path}/deliveries?limit=2&state=pending&after={after}")).await.body;
        for mail in page["deliveries"].as_array().expect("mails") {
            seen.push(mail["recipient"].as_str().expect("an address").to_owned());
        }
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(seen, (0..5).map(|number| format!("r{number}@example.test")).collect::<Vec<_>>());
    assert_eq!(api.get(&format!("{path}/deliveries?state=lost")).await.status, 422);
    assert_eq!(api.get("/campaigns/999/deliveries").await.status, 404);
    assert_eq!(api.get(&format!("{path}/uncertain")).await.status, 200);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn garbage_is_a_clear_4xx(db: PgPool) {
    let api = api(db).await;
    let authorization = bearer(&api.operate);
    let json_type = ("content-type", "application/json");
    for (line, content_type, body, status) in [
        ("POST /campaigns", json_type, Body::from("{"), 400),
        ("POST /campaigns", json_type, Body::from(vec![0xff_u8, 0xfe]), 400),
        ("POST /campaigns", json_type, Body::from("[]"), 422),
        ("POST /campaigns", json_type, Body::from(r#"{"nmae": "x"}"#), 422),
        ("POST /campaigns", ("content-type", "text/plain"), Body::from("{}"), 415),
        ("POST /campaigns", json_type, Body::from(" ".repeat(5 * 1024 * 1024 + 1)), 413),
        ("POST /campaigns/x/start", json_type, Body::from("{}"), 404),
        ("POST /campaigns/99999999999999999999/start", json_type, Body::from("{}"), 404),
        ("POST /campaigns/7/start", json_type, Body::from("{}"), 404),
        ("POST /campaigns/7/recipients", ("content-type", "text/csv"), Body::from("email\n"), 404),
    ] {
        let answer = api.ask(line, &[("authorization", &authorization), content_type], body).await;
        assert_eq!(answer.status, status, "{line}: {}", answer.body);
        assert!(!answer.body["detail"].as_str().expect("a detail").is_empty());
    }
    let mut nul = draft(1);
    nul["name"] = "a\u{0}b".into();
    assert_eq!(post(&api, "/campaigns", &nul).await.status, 422);
    nul = draft(1);
    nul["html"] = "a\u{0}b".into();
    nul["text"] = "b".into();
    assert_eq!(post(&api, "/campaigns", &nul).await.status, 422);
    nul = draft(1);
    nul["recipients"][0]["fields"]["name"] = "a\u{0}b".into();
    assert_eq!(post(&api, "/campaigns", &nul).await.status, 422);
}
