//! Single mails on a real Postgres: what `nightshift.send_mail` makes and refuses, and that ledger, gate, limits and
//! connections treat them as they should.

#[expect(dead_code, reason = "verbs for campaigns, which the other tests speak")]
mod ledger_support;

use chrono::Utc;
use ledger_support::{LEASE, Ledger};
use shared::address::EmailAddress;
use shared::batches::{self, Claimed, Released};
use shared::gate::{self, Answer, Cause, Denial, Outcome, Request, Settled};
use shared::mail::Attachment;
use shared::monitor::{self, NO_PROGRESS};
use shared::single_mail::{self, CreateError, NewMail};
use shared::suppressions;
use sqlx::PgPool;
use uuid::Uuid;

/// A mail that is sound in every way.
fn mail(to: &EmailAddress) -> NewMail<'_> {
    NewMail {
        account: "news",
        to,
        subject: "Your code",
        text: Some("1234"),
        html: None,
        key: None,
        fields: None,
        list: None,
        owner: None,
        reply_to: None,
        attachments: &[],
    }
}

fn address(text: &str) -> EmailAddress {
    text.parse().expect(text)
}

async fn create(db: &PgPool, new: &NewMail<'_>) -> Result<Uuid, CreateError> {
    single_mail::create(&mut db.acquire().await.expect("connection"), new).await
}

/// What a host's own SQL gets: the public id, or the words of the refusal.
async fn host(db: &PgPool, arguments: &str) -> Result<Uuid, String> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select nightshift.send_mail({arguments})")))
        .fetch_one(db)
        .await
        .map_err(|error| error.as_database_error().expect("the database's own words").message().to_owned())
}

async fn claimed(db: &PgPool, mail: Uuid) -> Claimed {
    let batch = single_mail::batch_of(db, mail).await.expect("look").expect("there");
    batches::claim(db, batch, Uuid::new_v4(), LEASE).await.expect("claim").expect("free")
}

/// Claims the mail, takes a connection and asks the gate for it.
async fn ask(ledger: &Ledger, mail: Uuid) -> (Claimed, i64, Answer) {
    let claimed = claimed(&ledger.db, mail).await;
    let lease = &claimed.lease;
    let slots = batches::slots_for(None, 4);
    let slots = batches::take_slots(&ledger.db, ledger.account, slots, 1, lease.token, LEASE).await.expect("slots");
    let id = single_mail::load(&ledger.db, lease.batch_id).await.expect("content").delivery_id;
    let request = Request { slot: slots[0], settled: vec![], next: Some(id) };
    let answer = gate::pass(&ledger.db, lease, &[request]).await.expect("gate").remove(0);
    (claimed, id, answer)
}

async fn settle(ledger: &Ledger, claimed: &Claimed, delivery_id: i64, outcome: Outcome) -> Released {
    let settled = vec![Settled { delivery_id, outcome, reply: "as it was told".to_owned() }];
    gate::pass(&ledger.db, &claimed.lease, &[Request { slot: 0, settled, next: None }]).await.expect("gate");
    let released = batches::release(&ledger.db, &claimed.lease, None, true).await.expect("release");
    batches::free_slots(&ledger.db, ledger.account, claimed.lease.token).await.expect("free");
    released
}

async fn listed(db: &PgPool, mail: Uuid) -> single_mail::Listed {
    single_mail::list(db, Some(mail), None, 1).await.expect("list").pop().expect("there")
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_host_makes_a_mail_in_its_own_transaction(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let mut tx = ledger.db.begin().await.expect("begin");
    let call = "select nightshift.send_mail('news', 'Ann@A.test', 'Your code', text_body => '1234')";
    sqlx::query(call).execute(&mut *tx).await.expect("made");
    tx.rollback().await.expect("rollback");
    assert!(single_mail::list(&ledger.db, None, None, 9).await.expect("list").is_empty());

    let id = host(&ledger.db, "'news', 'Ann@A.test', 'Your code', text_body => '1234'").await.expect("made");
    let (claimed, delivery, answer) = ask(&ledger, id).await;
    assert_eq!(answer, Answer::Admitted { tight: false });
    assert_eq!(settle(&ledger, &claimed, delivery, Outcome::Sent).await, Released::Finished);
    let listed = listed(&ledger.db, id).await;
    assert_eq!((listed.to.as_str(), listed.state.as_str(), listed.attempts), ("Ann@A.test", "sent", 1));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn the_same_key_makes_one_mail_also_at_the_same_moment(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let ann = address("ann@a.test");
    let new = NewMail { key: Some("order 7"), ..mail(&ann) };
    let made = futures_util::future::join_all((0..8).map(|_| create(&ledger.db, &new))).await;
    let first = *made[0].as_ref().expect("made");
    assert!(made.iter().all(|id| *id.as_ref().expect("made") == first));
    let rows: i64 =
        sqlx::query_scalar("select count(*) from nightshift.batches").fetch_one(&ledger.db).await.expect("n");
    assert_eq!(rows, 1, "what lost the race left nothing behind");

    let bob = address("bob@a.test");
    let error = create(&ledger.db, &NewMail { key: Some("order 7"), ..mail(&bob) }).await.expect_err("another's");
    assert!(error.to_string().contains("another recipient"), "{error}");
    assert_ne!(create(&ledger.db, &mail(&ann)).await.expect("no key"), first);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn what_cannot_be_sent_is_refused_with_words_that_help(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    for (arguments, words) in [
        ("'nws', 'ann@a.test', 'Hi', text_body => 'x'", "the accounts are: news"),
        ("'news', '', 'Hi', text_body => 'x'", "recipient is empty"),
        ("'news', null, 'Hi', text_body => 'x'", "recipient is empty"),
        ("'news', 'ann@почта.рф', 'Hi', text_body => 'x'", "recipient_normalised"),
        ("'news', 'ann@a.test', ' ', text_body => 'x'", "subject"),
        ("'news', 'ann@a.test', E'Hi\\r\\nBcc: x@a.test', text_body => 'x'", "subject"),
        ("'news', 'ann@a.test', 'Hi'", "text_body"),
        ("'news', 'ann@a.test', 'Hi', text_body => 'x', key => ''", "key is empty"),
        ("'news', 'ann@a.test', 'Hi', text_body => 'x', fields => '[1]'", "JSON object"),
        ("'news', 'ann@a.test', 'Hi', text_body => 'x', reply_to => 'x@'", "reply_to"),
        ("'news', 'ann@a.test', 'Hi', text_body => 'x', uncertain_policy => 'guess'", "hold, resend or count_as_sent"),
        ("'news', 'ann@a.test', 'Hi', text_body => 'x', attachments => '{}'", "array"),
        ("'news', 'ann@a.test', 'Hi', text_body => 'x', attachments => '[{\"name\": \"a\"}]'", "attachment 1 needs"),
        (
            "'news', 'ann@a.test', 'Hi', text_body => 'x',
             attachments => '[{\"name\": \"a\", \"content_type\": \"text/plain\", \"content\": \"%\"}]'",
            "not Base64",
        ),
        (
            "'news', 'ann@a.test', 'Hi', text_body => 'x', attachments => jsonb_build_array(jsonb_build_object(
             'name', 'a', 'content_type', 'text/plain', 'content', encode(convert_to(repeat('x', 10485761), 'utf8'), 'base64')))",
            "10 MiB",
        ),
    ] {
        let refused = host(&ledger.db, arguments).await.expect_err(arguments);
        assert!(refused.contains(words), "{arguments}: {refused}");
    }
    assert!(single_mail::list(&ledger.db, None, None, 9).await.expect("list").is_empty());
}

/// What the function takes without help must be the same address to Rust, or the sender could not mail it.
#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn sql_and_rust_agree_on_addresses(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let long = format!("{}@a.test", "x".repeat(65));
    let mut taken = 0;
    for text in [
        "ann@example.test",
        "Ann.B+tag@Sub.Example.TEST",
        "o'neil@example.test",
        "x_y-z@xn--80a1acny.xn--p1ai",
        "1@1.example.test",
        "!#$%&'*+/=?^_`{|}~-@example.test",
        "ann",
        "ann@",
        "@example.test",
        "ann@example",
        "ann@@example.test",
        "ann@example..test",
        "ann@-.test",
        "ann@exa_mple.test",
        "ann@example-.test",
        "ann@example.test.",
        ".ann@example.test",
        "ann.@example.test",
        "a..b@example.test",
        "a b@example.test",
        "ann @example.test",
        " ann@example.test",
        "Ann <ann@example.test>",
        "ann@[127.0.0.1]",
        "ann@127.0.0.1",
        "\"ann\"@example.test",
        "ann@example.test,bob@example.test",
        "ann@example.test\r\nBcc: x@example.test",
        long.as_str(),
    ] {
        let made: Result<Uuid, _> =
            sqlx::query_scalar("select nightshift.send_mail('news', $1, 'Hi', text_body => 'x')")
                .bind(text)
                .fetch_one(&ledger.db)
                .await;
        let Ok(id) = made else { continue };
        taken += 1;
        let normalised: String =
            sqlx::query_scalar("select email_normalised from nightshift.deliveries where public_id = $1")
                .bind(id)
                .fetch_one(&ledger.db)
                .await
                .expect("its row");
        let parsed: EmailAddress = text.parse().unwrap_or_else(|error| panic!("SQL takes {text:?}, Rust: {error}"));
        assert_eq!(parsed.normalised(), normalised, "{text}");
    }
    assert_eq!(taken, 6, "the first six are fine");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_address_in_any_script_is_made_from_rust(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let to = address("Иван@Почта.рф");
    let id = create(&ledger.db, &mail(&to)).await.expect("made");
    let normalised: String =
        sqlx::query_scalar("select email_normalised from nightshift.deliveries where public_id = $1")
            .bind(id)
            .fetch_one(&ledger.db)
            .await
            .expect("row");
    assert_eq!(normalised, to.normalised());
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn suppressions_hold_for_all_mail_and_for_the_mails_own_list_only(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    for (to, suppressed_list, own_list, passes) in [
        ("a@a.test", "", None, false),
        ("b@a.test", "weekly", None, true),
        ("c@a.test", "weekly", Some("weekly"), false),
        ("d@a.test", "weekly", Some("daily"), true),
    ] {
        let to = address(to);
        let id = create(&ledger.db, &NewMail { list: own_list, ..mail(&to) }).await.expect("made");
        // As a host's SQL does it: only the list of suppressions changes, not the deliveries.
        sqlx::query("insert into nightshift.suppressions (email_normalised, list) values ($1, $2)")
            .bind(to.normalised())
            .bind(suppressed_list)
            .execute(&ledger.db)
            .await
            .expect("suppress");
        let expected = if passes { Answer::Admitted { tight: false } } else { Answer::Denied(Denial::Suppressed) };
        assert_eq!(ask(&ledger, id).await.2, expected, "{to} {suppressed_list:?} {own_list:?}");
        assert_eq!(listed(&ledger.db, id).await.state, if passes { "sending" } else { "suppressed" });
    }
    let eve = [address("eve@a.test")];
    let id = create(&ledger.db, &mail(&eve[0])).await.expect("made");
    let mut connection = ledger.db.acquire().await.expect("connection");
    suppressions::add(&mut connection, &eve, "", "manual").await.expect("add");
    assert_eq!(listed(&ledger.db, id).await.state, "suppressed", "taken back at once");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_single_mail_counts_against_account_and_owner(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    ledger
        .execute(
            "insert into nightshift.limits (scope, subject, period, maximum)
             values ('user', 'desk', 'day', 1), ('account', (select id::text from nightshift.smtp_accounts), 'day', 2)",
        )
        .await;
    let to = address("ann@a.test");
    let mut answers = vec![];
    for owner in [Some("desk"), Some("desk"), None, None] {
        let id = create(&ledger.db, &NewMail { owner, ..mail(&to) }).await.expect("made");
        let (claimed, delivery, answer) = ask(&ledger, id).await;
        if matches!(answer, Answer::Admitted { .. }) {
            settle(&ledger, &claimed, delivery, Outcome::Sent).await;
        }
        answers.push(answer);
    }
    let waits_for = |answer: &Answer, whose: &str| match answer {
        Answer::Denied(Denial::Waits(wait)) => wait.reason.starts_with(&format!("daily limit of {whose} reached")),
        _ => false,
    };
    assert_eq!(answers[0], Answer::Admitted { tight: true });
    assert!(waits_for(&answers[1], "user desk"), "{answers:?}");
    assert_eq!(answers[2], Answer::Admitted { tight: true });
    assert!(waits_for(&answers[3], "account news"), "{answers:?}");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn content_that_is_not_wanted_is_given_up_and_the_mail_is_over(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let to = address("ann@a.test");
    let id = create(&ledger.db, &mail(&to)).await.expect("made");
    let (claimed, delivery, answer) = ask(&ledger, id).await;
    assert_eq!(answer, Answer::Admitted { tight: false });
    let settled = vec![Settled {
        delivery_id: delivery,
        outcome: Outcome::Returned(std::time::Duration::ZERO),
        reply: "554".to_owned(),
    }];
    gate::pass(&ledger.db, &claimed.lease, &[Request { slot: 0, settled, next: None }]).await.expect("gate");
    assert_eq!(settle(&ledger, &claimed, delivery, Outcome::Refused(Cause::Content)).await, Released::Finished);
    let listed = listed(&ledger.db, id).await;
    assert_eq!((listed.state.as_str(), listed.cause.as_deref(), listed.attempts), ("refused", Some("content"), 1));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_dead_connection_leaves_what_the_mails_own_policy_says(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    for (policy, state) in [("hold", "uncertain"), ("resend", "deferred"), ("count_as_sent", "sent")] {
        let call = format!("'news', 'ann@a.test', 'Hi', text_body => 'x', uncertain_policy => '{policy}'");
        let id = host(&ledger.db, &call).await.expect("made");
        assert_eq!(ask(&ledger, id).await.2, Answer::Admitted { tight: false });
        ledger.execute("update nightshift.smtp_connections set leased_until = now() - interval '1 second'").await;
        assert_eq!(batches::settle_dead_connections(&ledger.db).await.expect("settle"), 1);
        assert_eq!(listed(&ledger.db, id).await.state, state, "{policy}");
    }
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_leaves_a_connection_to_single_mails(db: PgPool) {
    let ledger = Ledger::sending(db, &["reader@a.test"]).await;
    assert_eq!(batches::slots_for(Some(ledger.campaign), 1), 0..1, "the only one is shared");
    let token = Uuid::new_v4();
    let slots = batches::slots_for(Some(ledger.campaign), 4);
    let taken = batches::take_slots(&ledger.db, ledger.account, slots, 99, token, LEASE).await.expect("slots");
    assert_eq!(taken.len(), 3);
    let to = address("ann@a.test");
    let id = create(&ledger.db, &mail(&to)).await.expect("made");
    assert_eq!(ask(&ledger, id).await.2, Answer::Admitted { tight: false });
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_that_shares_the_only_connection_sees_who_waits(db: PgPool) {
    let ledger = Ledger::sending(db, &["reader@a.test"]).await;
    let waits = || batches::single_mail_waits(&ledger.db, ledger.account);
    assert!(!waits().await.expect("look"));
    let to = address("ann@a.test");
    let id = create(&ledger.db, &mail(&to)).await.expect("made");
    assert!(waits().await.expect("look"));
    let (claimed, delivery, _) = ask(&ledger, id).await;
    settle(&ledger, &claimed, delivery, Outcome::Deferred(std::time::Duration::from_secs(600))).await;
    assert!(!waits().await.expect("look"), "it is due in ten minutes");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn single_mails_that_nobody_takes_are_reported(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let to = address("ann@a.test");
    create(&ledger.db, &mail(&to)).await.expect("made");
    let report = async |now| monitor::judge(&monitor::look(&ledger.db).await.expect("look"), now, NO_PROGRESS);
    let now = Utc::now();
    assert!(!report(now + chrono::Duration::minutes(14)).await.stuck);
    let later = report(now + chrono::Duration::minutes(16)).await;
    assert!(later.stuck);
    assert_eq!((later.single_mails[0].account.as_str(), later.single_mails[0].open), ("news", 1));

    shared::accounts::pause(&ledger.db, ledger.account, 3600.0, "login refused").await.expect("pause");
    let paused = report(now + chrono::Duration::minutes(16)).await;
    assert!(!paused.stuck, "it waits for a reason");
    assert_eq!((paused.paused_accounts[0].single_mails, paused.paused_accounts[0].again_and_again), (1, true));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn templates_are_checked_when_a_mail_is_made_and_attachments_are_kept_as_they_are(db: PgPool) {
    let ledger = Ledger::with_draft(db, &[]).await;
    let to = address("ann@a.test");
    let fields = serde_json::json!({"code": "<7>"});
    let file = Attachment {
        name: "invite.ics".to_owned(),
        content_type: "text/calendar; method=REQUEST".to_owned(),
        content: (0..=255).collect(),
    };
    let template = NewMail { subject: "Code {{ code }}", text: None, fields: Some(&fields), ..mail(&to) };
    let error = create(&ledger.db, &NewMail { html: Some("<p>{{ kode }}</p>"), ..template.clone() }).await;
    assert!(error.expect_err("refused").to_string().contains("HTML part, line 1"));
    let error = create(&ledger.db, &NewMail { html: Some("<p>{{ unsubscribe_url }}</p>"), ..template.clone() }).await;
    assert!(matches!(error, Err(CreateError::Template(_))), "a mail without a list has no such link");

    let files = [file];
    let id = create(&ledger.db, &NewMail { html: Some("<p>{{ code }}</p>"), attachments: &files, ..template })
        .await
        .expect("made");
    let batch = single_mail::batch_of(&ledger.db, id).await.expect("look").expect("there");
    let content = single_mail::load(&ledger.db, batch).await.expect("content");
    assert_eq!(content.attachments, files);
    let rendered = content.render(&fields).expect("renders");
    assert_eq!(rendered.subject, "Code <7>");
    assert_eq!(rendered.html.as_deref(), Some("<p>&lt;7&gt;</p>"));
    assert_eq!(rendered.text.trim(), "<7>");

    // Without fields, braces are braces.
    let id = create(&ledger.db, &NewMail { text: Some("{{ code }}"), ..mail(&to) }).await.expect("made");
    let batch = single_mail::batch_of(&ledger.db, id).await.expect("look").expect("there");
    let content = single_mail::load(&ledger.db, batch).await.expect("content");
    assert_eq!(content.render(&fields).expect("stands").text, "{{ code }}");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn single_mails_are_rung_beside_a_campaign_that_has_all_it_may(db: PgPool) {
    let readers: Vec<String> = (0..20).map(|number| format!("reader{number}@a.test")).collect();
    let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
    let ledger = Ledger::with_draft(db, &readers).await;
    shared::campaigns::start(&ledger.db, ledger.campaign, Utc::now()).await.expect("start");
    ledger.plan(1).await;
    let to = address("ann@a.test");
    for _ in 0..20 {
        create(&ledger.db, &mail(&to)).await.expect("made");
    }
    let rung = async || {
        let due: Vec<(i64, Option<i64>)> = sqlx::query_as(include_str!("../src/batches/due.sql"))
            .bind(60.0)
            .bind(8)
            .bind(500_i64)
            .bind(4)
            .bind(Vec::<i64>::new())
            .fetch_all(&ledger.db)
            .await
            .expect("due");
        let singles = due.iter().filter(|(_, campaign)| campaign.is_none()).count();
        (singles, due.len() - singles)
    };
    assert_eq!(rung().await, (4, 1), "as many as four connections can keep busy");
    ledger.execute("update nightshift.batches set rung_at = now() where campaign_id is not null").await;
    assert_eq!(rung().await, (4, 0), "a campaign's outstanding batches do not count");
    ledger
        .execute(
            "update nightshift.batches set rung_at = now()
             where id in (select id from nightshift.batches where campaign_id is null limit 4)",
        )
        .await;
    assert_eq!(rung().await, (0, 0), "single mails have a bound of their own");
}
