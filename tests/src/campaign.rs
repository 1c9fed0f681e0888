//! Campaigns as tests speak of them.

use std::time::Duration;

use serde_json::Value;

use crate::app::{Said, TestApp};

/// What a test imports. Every draft has a mail domain of its own, so that tests share an inbox and a runner.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    /// Account it leaves through.
    pub account: &'a str,
    /// Subject template.
    pub subject: &'a str,
    /// HTML template.
    pub html: &'a str,
    /// The recipients file.
    pub csv: Vec<u8>,
    /// What becomes of mails in doubt.
    pub uncertain: &'a str,
}

impl Default for Draft<'_> {
    fn default() -> Self {
        Self { account: "inbox", subject: "News", html: "<p>Good evening</p>", csv: vec![], uncertain: "hold" }
    }
}

/// A recipients file with these addresses and nothing else.
pub fn csv_of<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Vec<u8> {
    let mut csv = String::from("email\n");
    for address in addresses {
        csv.push_str(address.as_ref());
        csv.push('\n');
    }
    csv.into_bytes()
}

/// An imported campaign.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// Row in `nightshift.campaigns`.
    pub id: i64,
    /// Rows imported.
    pub imported: i64,
    /// Rows handed back.
    pub rejected: i64,
}

impl TestApp {
    /// Imports a draft that must be importable.
    pub fn import(&self, draft: &Draft<'_>) -> Campaign {
        let said = self.try_import(draft);
        let answer: Value = serde_json::from_str(&said.expect_success().out).expect("the import answers in JSON");
        let number = |name: &str| answer[name].as_i64().unwrap_or_else(|| panic!("{name} in {answer}"));
        Campaign { id: number("campaign_id"), imported: number("imported"), rejected: number("rejected") }
    }

    /// Tries to import a draft.
    pub fn try_import(&self, draft: &Draft<'_>) -> Said {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("a temporary file");
            path.to_str().expect("temporary paths are UTF-8").to_owned()
        };
        let (html, csv) = (write("mail.html", draft.html.as_bytes()), write("people.csv", &draft.csv));
        let rejects = folder.path().join("rejects.csv");
        let mut said = self.runner(&[
            "campaign",
            "create",
            "--json",
            "--name",
            "Test",
            "--account",
            draft.account,
            "--subject",
            draft.subject,
            "--uncertain",
            draft.uncertain,
            "--html",
            &html,
            "--recipients",
            &csv,
            "--rejects",
            rejects.to_str().expect("UTF-8"),
        ]);
        said.rejects = std::fs::read_to_string(rejects).ok();
        said
    }

    /// Lets a campaign go.
    pub fn start(&self, campaign: Campaign) {
        self.runner(&["campaign", "start", &campaign.id.to_string()]).expect_success();
    }

    /// Waits until nothing is left to do, and returns the receipt, whose books must balance.
    pub fn wait_until_over(&self, campaign: Campaign, seconds: u64) -> Value {
        let id = campaign.id.to_string();
        let waited = self.runner(&["campaign", "progress", &id, "--wait", "--timeout", &seconds.to_string()]);
        assert!(waited.success, "{}{}\n{}", waited.out, waited.err, self.log_tail());
        self.receipt(campaign)
    }

    /// Dispatches as the schedule would, only sooner, until nothing is left to do; returns the receipt.
    pub async fn dispatch_until_over(&self, campaign: Campaign, patience: Duration) -> Value {
        self.wait_for("the campaign to be over", patience, async || {
            self.invoke("DispatchCampaigns");
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.receipt(campaign)["status"] == "sent"
        })
        .await;
        self.receipt(campaign)
    }

    /// The receipt, whose books must balance.
    pub fn receipt(&self, campaign: Campaign) -> Value {
        let said = self.runner(&["campaign", "receipt", &campaign.id.to_string(), "--json"]);
        let receipt: Value = serde_json::from_str(&said.expect_success().out).expect("a receipt in JSON");
        let count = |name: &str| receipt[name].as_i64().unwrap_or_else(|| panic!("{name} in {receipt}"));
        let accounted_for: i64 =
            ["sent", "refused", "suppressed", "cancelled", "uncertain", "open"].into_iter().map(count).sum();
        assert_eq!(accounted_for, count("planned"), "the books do not balance: {receipt}");
        if count("planned") > 0 {
            assert_eq!(count("imported"), count("planned") + count("duplicates"), "rows are missing: {receipt}");
        }
        receipt
    }

    /// Imports, starts and waits.
    pub fn deliver(&self, draft: &Draft<'_>) -> Value {
        let campaign = self.import(draft);
        self.start(campaign);
        self.wait_until_over(campaign, 60)
    }
}
