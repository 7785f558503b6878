//! Changes tables, several at once, and reads back until EC2 shows what it accepted.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream;
use hanat_core::change::{Change, Outcome, To};
use hanat_core::routes::{Nat, Table};
use tokio::time::sleep;

use crate::aws::lists::List;
use crate::aws::session::Session;

/// Changes under way at once: enough to keep the bucket, not the network, the limit.
const IN_FLIGHT: usize = 16;

/// First wait between two reads that verify, doubled up to `MAX_VERIFY_INTERVAL`. The first
/// read follows at once; EC2's reads are eventually consistent, mostly within a second.
pub const VERIFY_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait between two reads that verify: Describe calls refill at 20 a second.
pub const MAX_VERIFY_INTERVAL: Duration = Duration::from_secs(1);

const READING_BACK: &str = "reading back";

/// Moves tables on this instance's behalf.
pub struct Mover<'a> {
    /// With clients for the calls.
    pub session: &'a Session,
    /// This instance.
    pub nat: &'a Nat,
    /// Key of the owner tag.
    pub key: &'a str,
    /// Whether a default route that leads to a VPC endpoint is replaced, too.
    pub replaces_endpoints: bool,
}

impl Mover<'_> {
    /// The VPC's tables that have the owner tag.
    pub async fn tables(&self) -> Result<List<Table>> {
        self.session.ec2.owned_tables(&self.nat.vpc, self.key).await
    }

    /// Does what is planned. A failure is that table's own.
    pub async fn carry_out(&self, changes: &mut [Change]) {
        let planned = changes.iter_mut();
        let planned = planned.filter(|change| change.is_planned());
        stream::iter(planned)
            .for_each_concurrent(IN_FLIGHT, |change| async {
                change.outcome = self.change(change).await;
                tracing::debug!("{}: {:?}", change.id(), change.outcome);
            })
            .await;
    }

    async fn change(&self, change: &Change) -> Outcome {
        let Some(To::Route(to)) = &change.to else {
            return change.outcome.clone();
        };
        let (ec2, id) = (&self.session.ec2, change.id());
        let done = if let Some(from) = &change.from {
            ec2.move_default_route(id, from, to).await
        } else {
            let create = change.table.lacks_static_route();
            let done = ec2.point_default_route(id, create, to, self.replaces_endpoints);
            done.await.map(|()| true)
        };
        match done {
            Ok(true) => Outcome::Accepted,
            Ok(false) => Outcome::Overtaken,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    /// Reads back until EC2 shows what it accepted. From `lag` on reads are taken to show what is.
    pub async fn verify(&self, changes: &mut [Change], lag: Duration) -> Result<()> {
        let began = Instant::now();
        let mut wait = VERIFY_INTERVAL;
        let mut reads = changes.iter().any(Change::wants_read);
        while reads {
            self.look(changes, began.elapsed() < lag).await?;
            let open = changes.iter();
            let open = open.filter(|change| change.outcome == Outcome::Accepted);
            let whys: Vec<String> = open.map(Change::why_open).collect();
            reads = !whys.is_empty();
            if reads {
                let troubles = &self.session.troubles;
                troubles.note(READING_BACK, &whys.join(", "));
                sleep(wait).await;
                wait = (wait * 2).min(MAX_VERIFY_INTERVAL);
            }
        }
        self.session.troubles.clear(READING_BACK);
        Ok(())
    }

    /// Takes in what EC2 shows now; whether that may lag behind what was changed.
    pub async fn look(&self, changes: &mut [Change], may_lag: bool) -> Result<()> {
        let tables = self.tables().await?;
        let mut looked = Ok(());
        for change in changes {
            let id = change.id();
            let now = tables.iter().find(|table| table.id == *id);
            if change.from.is_none() {
                // It may be there and could not be understood.
                if now.is_some() || !tables.may_hide(id.as_str()) {
                    let ours = now.filter(|table| self.nat.may_claim(table));
                    change.settle(ours, may_lag);
                }
            } else if now.is_some() {
                change.settle(now, may_lag);
            } else {
                // Gone, or only not tagged any more.
                match self.session.ec2.table(id).await {
                    Ok(now) => change.settle(now.as_ref(), may_lag),
                    // It says nothing of the others.
                    Err(error) => looked = looked.and(Err(error)),
                }
            }
        }
        looked
    }
}
