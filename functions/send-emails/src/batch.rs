//! One batch: its open deliveries, shared out among the connections.

use futures_util::future::join_all;
use shared::batches;

use crate::Counts;
use crate::connection::{self, Line};
use crate::gatekeeper::Gate;
use crate::work::{Delivery, Shared, Stop, Work};

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) stop: Option<Stop>,
}

/// Sends what is due in the batch, over the given lines.
pub(crate) async fn run(work: &Work<'_>, lines: &mut [Line], sent_before: u64) -> Report {
    let waiting = match due_deliveries(work).await {
        Ok(deliveries) => deliveries,
        Err(error) => {
            return Report { stop: Some(Stop::Broken(format!("read deliveries: {error}"))), ..Report::default() };
        }
    };
    let shared = Shared::new(waiting, sent_before);
    {
        let (gate, keeper) = Gate::new();
        // `move` lets go of the last gate when the connections have ended, and so ends the keeper.
        let connections = async {
            let gate = gate;
            join_all(lines.iter_mut().map(|line| connection::run(work, &shared, &gate, line))).await;
        };
        let work_done = async { tokio::join!(connections, keeper.run(&work.ctx.db, work.lease, work.deadline)) };
        tokio::select! {
            _ = work_done => {}
            () = heartbeat(work, &shared) => {}
        }
    }
    let (counts, stop) = shared.into_parts();
    Report { counts, stop }
}

/// Keeps the lease while servers take their time. Never ends: the work does.
async fn heartbeat(work: &Work<'_>, shared: &Shared) {
    loop {
        tokio::time::sleep(work.lease.lasts / 3).await;
        match batches::renew(&work.ctx.db, work.lease).await {
            Ok(true) => {}
            Ok(false) => shared.stop(Stop::LeaseLost),
            Err(error) => tracing::warn!(batch.id = work.lease.batch_id, "the lease was not renewed: {error}"),
        }
    }
}

async fn due_deliveries(work: &Work<'_>) -> Result<Vec<Delivery>, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        r#"
        select id, public_id, email, fields, attempts, returned
        from nightshift.deliveries
        where batch_id = $1
            and state in ('pending', 'deferred')
            and coalesce(next_attempt_at <= now(), true)
        order by id
        "#,
        work.lease.batch_id,
    )
    .fetch_all(&work.ctx.db)
    .await
}
