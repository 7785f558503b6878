//! Leaving: others get the default routes that lead here, and until then this instance forwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep_until};

use super::hook::Hold;
use super::{Watch, service};
use crate::candidates;
use crate::config::{
    HANDOVER_RESERVE, HANDOVER_TIME, LEAVING_INTERVAL, LEFT_INTERVAL, READ_BACK_TIME,
    RETRY_INTERVAL, STEP_TIME,
};
use crate::handover::{self, Outcome, Row};
use crate::ids::TableId;
use crate::notices::Notices;
use crate::routes::{Nat, Table, Target};
use crate::successors::Candidate;

const LOOKING: &str = "looking at the route tables";
const LEAVING: &str = "leaving";

/// What one look came to.
enum Step {
    /// Nothing leads here.
    Empty,
    /// So many tables lead here, and wait for a replacement.
    Waiting(usize),
    /// What led here was handed over.
    HandedOver,
    /// Nobody knows, or somebody has to try again.
    Failed,
}

impl Watch<'_> {
    /// From the first reason on, for as long as the process lives: what comes to lead here later
    /// has to go, too.
    pub(super) async fn leave(&self) {
        let mut notices = self.notices.subscribe();
        let mut hold = self.hold.subscribe();
        // It lives as long as this.
        let _ = notices.wait_for(|notices| self.leaves(notices)).await;
        let began = Instant::now();
        let mut empty_since = None;
        let mut announced = false;
        let mut others = Others::default();
        loop {
            let looked = Instant::now();
            let stepped = self.step(began, &mut others).await;
            empty_since = match stepped {
                Step::Empty => empty_since.or_else(|| Some(Instant::now())),
                Step::HandedOver => Some(Instant::now()),
                Step::Waiting(_) | Step::Failed => None,
            };
            let has_left = matches!(stepped, Step::Empty)
                && empty_since.is_some_and(|since| looked >= since + self.settings.linger);
            let before = self.left.send_replace(has_left.then_some(looked));
            if has_left && before.is_none() {
                tracing::info!("no route table leads here any more");
                service::status("left; no route table leads here");
            }
            if let Step::Waiting(held) = stepped
                && !announced
            {
                let patience = humantime::format_duration(self.settings.drain_wait);
                tracing::info!(
                    "route tables that lead here: {held}; a replacement has {patience} at most"
                );
                announced = true;
            }
            let pause = match stepped {
                Step::Failed => RETRY_INTERVAL,
                Step::Empty if has_left => LEFT_INTERVAL,
                Step::Waiting(_) => LEAVING_INTERVAL,
                Step::Empty | Step::HandedOver => {
                    LEAVING_INTERVAL.min(self.settings.linger.max(LEAVING_INTERVAL / 10))
                }
            };
            // What may be more urgent is not waited out.
            tokio::select! {
                () = sleep_until(looked + pause) => {}
                _ = notices.changed() => {}
                _ = hold.changed() => {}
            }
        }
    }

    /// One look, and the handing over where it is time.
    async fn step(&self, began: Instant, others: &mut Others) -> Step {
        let troubles = &self.session.troubles;
        let key = &self.settings.owner_tag;
        let tables = self.session.ec2.owned_tables(&self.nat.vpc, key);
        let tables = self.session.within(STEP_TIME, tables).await;
        let Some(tables) = troubles.tell(LOOKING, tables) else {
            return Step::Failed;
        };
        others.remember(&tables, &self.nat);
        let held = tables.iter().filter(|table| self.nat.holds(table)).count();
        if held == 0 {
            troubles.over(LEAVING);
            return Step::Empty;
        }
        if Instant::now() < self.hands_over_at(began) {
            service::status(&format!(
                "leaving; tables that wait for a replacement: {held}"
            ));
            return Step::Waiting(held);
        }
        service::status(&format!("leaving; tables to hand over: {held}"));
        let done = self.hand_over(&tables, others).await;
        match troubles.tell(LEAVING, done) {
            Some(()) => Step::HandedOver,
            None => Step::Failed,
        }
    }

    /// When a replacement is waited for no longer.
    fn hands_over_at(&self, began: Instant) -> Instant {
        let Notices {
            terminated,
            interruption,
            ..
        } = &*self.notices.borrow();
        if interruption.is_some() {
            return began;
        }
        let patient = began + self.settings.drain_wait;
        match (terminated, *self.hold.borrow()) {
            (true, Hold::No) => began,
            (true, Hold::For(since, until)) => {
                patient.min(until - HANDOVER_RESERVE.min((until - since) / 2))
            }
            _ => patient,
        }
    }

    /// All that leads here. Fails where anything stays.
    async fn hand_over(&self, tables: &[Table], others: &Others) -> Result<()> {
        let (session, nat) = (&self.session, &self.nat);
        let key = &self.settings.owner_tag;
        let candidates = candidates::find(session, nat, key, tables);
        let mut candidates = session.within(STEP_TIME, candidates).await?;
        others.rule_out(&mut candidates);
        let mut rows = handover::plan(tables, nat, &candidates);
        let changing = async {
            handover::carry_out(session, nat, &mut rows).await;
            Ok(())
        };
        let changed = session.within(HANDOVER_TIME, changing).await;
        let shown = handover::verify(session, nat, key, &mut rows);
        let shown = session.within(READ_BACK_TIME, shown).await;
        for row in rows.iter().filter(|row| row.is_gone()) {
            tracing::info!("{}", said(row));
        }
        let mut failed = rows.iter().filter_map(|row| match &row.outcome {
            Outcome::Failed(why) => Some((&row.table.id, why)),
            _ => None,
        });
        if let Some((table, why)) = failed.next() {
            let more = match failed.count() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            bail!("{table}{more}: {why}");
        }
        changed.and(shown)
    }
}

/// What is known of those who leave at the same time, which nobody else tells: two Spot Instances
/// that are taken at once would hand their tables back and forth.
#[derive(Default)]
struct Others {
    /// Where each table led at the last look.
    led_to: BTreeMap<TableId, Target>,
    /// Whoever gave a table to this instance while it was leaving, and when that was seen.
    leaving: Vec<(Target, Instant)>,
}

/// How long somebody who gave a table away counts as leaving: a person or a read that lags may
/// have made it look so.
const LEAVING_TOO: Duration = Duration::from_secs(30);

impl Others {
    fn remember(&mut self, tables: &[Table], nat: &Nat) {
        for table in tables {
            let Some(route) = &table.default_route else {
                continue;
            };
            let before = self.led_to.insert(table.id.clone(), route.target.clone());
            if let Some(before @ Target::Instance { .. }) = before
                && nat.holds(table)
                && !nat.next_hop().is(&before)
            {
                self.leaving.push((before, Instant::now()));
            }
        }
    }

    fn rule_out(&self, candidates: &mut [Candidate]) {
        for candidate in candidates {
            let gave = self
                .leaving
                .iter()
                .any(|(target, when)| candidate.hop.is(target) && when.elapsed() < LEAVING_TOO);
            if gave {
                candidate.trouble = Some("it is leaving, too".to_owned());
            }
        }
    }
}

fn said(row: &Row) -> String {
    match &row.to {
        Some(to) if row.outcome == Outcome::HandedOver => {
            format!("{} handed over to {to}", row.table.id)
        }
        _ => format!("{} was taken by somebody else", row.table.id),
    }
}
