//! Recipients files on their way into a real Postgres.

use shared::accounts::{self, NewAccount, Security};
use shared::campaigns::{self, NewCampaign};
use shared::recipients::{Imported, RecipientsFile, Reject};
use shared::uncertain::Policy;
use sqlx::PgPool;

async fn import(db: &PgPool, file: &str) -> anyhow::Result<(Imported, Vec<Reject>)> {
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
        max_connections: 1,
    };
    let account_id = accounts::add(db, None, &account, true).await?.expect("added or replaced");
    let mut tx = db.begin().await?;
    let campaign = NewCampaign {
        name: "Spring".to_owned(),
        account_id,
        owner: None,
        subject: "Hi".to_owned(),
        html: String::new(),
        text: String::new(),
        list: String::new(),
        uncertain: Policy::Hold,
        window: None,
    };
    let id = campaigns::create(&mut *tx, &campaign).await?;
    let mut rejects = vec![];
    let imported = RecipientsFile::open(file.as_bytes())?
        .import(
            &mut tx,
            id,
            |reject| {
                rejects.push(reject);
                Ok(())
            },
            |_| {},
        )
        .await?;
    tx.commit().await?;
    Ok((imported, rejects))
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn lines_are_counted_as_an_editor_counts_them(db: PgPool) {
    for (end, name) in [("\n", "LF"), ("\r\n", "CRLF")] {
        let file = ["email,name", "a@x.test,A", "", "bad,B", "c@x.test,\"C", "C\"", "worse,D", "e@x.test,E,too many"];
        let (imported, rejects) = import(&db, &file.join(end)).await.expect(name);
        assert_eq!(imported, Imported { imported: 2, rejected: 3 }, "{name}");
        assert_eq!(rejects.iter().map(|reject| reject.line).collect::<Vec<_>>(), [4, 7, 8], "{name}");
        let last: (String, i64) = sqlx::query_as(
            "select fields ->> 'name', position from nightshift.recipients order by campaign_id desc, position desc limit 1",
        )
        .fetch_one(&db)
        .await
        .expect("row");
        assert_eq!((last.0.replace('\r', ""), last.1), ("C\nC".to_owned(), 5), "{name}");
    }
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_quote_that_is_never_closed_imports_nothing(db: PgPool) {
    for end in ["", "\n", "\r\n"] {
        let file = format!("email,name\na@x.test,A\nb@x.test,\"unclosed\nc@x.test,C{end}");
        let error = import(&db, &file).await.expect_err("refused").to_string();
        assert_eq!(error, "the row of line 3 opens a quote that is never closed");
    }
    let left: i64 =
        sqlx::query_scalar("select count(*) from nightshift.recipients").fetch_one(&db).await.expect("count");
    assert_eq!(left, 0);
    let (imported, _) = import(&db, "email,name\na@x.test,\"A\n\"\n").await.expect("a line feed within quotes is fine");
    assert_eq!(imported.imported, 1);
}
