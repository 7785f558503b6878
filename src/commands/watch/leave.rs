//! Leaving: others get the default routes that lead here, and until then this instance forwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use hanat_core::ids::TableId;
use hanat_core::notices::{Duty, Notices};
use hanat_core::routes::{Nat, Table, Target};
use hanat_core::successors::Candidate;
use tokio::time::{Instant, sleep_until};

use super::hook::Hold;
use super::{LEAVING_INTERVAL, RETRY_INTERVAL, STEP_TIME, Watch, service};
use crate::tables::candidates;
use crate::tables::candidates::CANDIDATE_TIME;
use crate::tables::handover::{self, Outcome, Row};

const LOOKING: &str = "looking at the route tables";
const LEAVING: &str = "leaving";

/// The same as `LEAVING_INTERVAL` once nothing leads to it any more.
const LEFT_INTERVAL: Duration = Duration::from_secs(10);

/// How long changing routes may take before the candidates are looked at anew: EC2 takes 31 s for
/// 200 tables.
const HANDOVER_TIME: Duration = Duration::from_mins(1);

/// How long one that leaves reads back what EC2 accepted before it looks anew: somebody may have
/// given it back.
const READ_BACK_TIME: Duration = Duration::from_secs(10);

/// Kept of the time that a hook waits for handing routes over, and for the answer; at most half of
/// the time, and a tenth.
const HANDOVER_RESERVE: Duration = Duration::from_secs(30);

/// What one look came to.
enum Step {
    /// Nothing leads here.
    Empty,
    /// So many tables lead here, and wait for a replacement.
    Waiting(usize),
    /// What led here was handed over.
    HandedOver,
    /// These lead here, nobody can take them, and the group wants nobody to.
    GivenUp(Vec<TableId>),
    /// Nobody knows, or somebody has to try again.
    Failed,
}

impl Watch<'_> {
    /// For as long as there is a reason to: what comes to lead here later has to go, too.
    pub(super) async fn leave(&self) {
        let mut notices = self.notices.subscribe();
        let mut hold = self.hold.subscribe();
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
                Step::Waiting(_) | Step::GivenUp(_) | Step::Failed => None,
            };
            let lingered = empty_since.is_some_and(|since| looked >= since + self.settings.linger);
            let has_left = match stepped {
                Step::Empty => lingered,
                Step::GivenUp(_) => true,
                Step::Waiting(_) | Step::HandedOver | Step::Failed => false,
            };
            let before = self.left.send_replace(has_left.then_some(looked));
            if has_left && before.is_none() {
                self.tell_of_end(&stepped);
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
                Step::Failed | Step::GivenUp(_) => RETRY_INTERVAL,
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

    /// Back to service: it leaves no more, whatever came of that.
    pub(super) fn stay(&self) {
        self.left.send_replace(None);
        self.session.troubles.forget(LEAVING);
    }

    fn tell_of_end(&self, stepped: &Step) {
        if let Step::GivenUp(tables) = stepped {
            let tables: Vec<&str> = tables.iter().map(TableId::as_str).collect();
            let tables = tables.join(", ");
            tracing::warn!(
                "the Auto Scaling group wants no instance any more, and nobody can take {tables}: \
                 clients of them lose their way out"
            );
            service::status(&format!("left; nobody takes {tables}"));
            return;
        }
        tracing::info!("no route table leads here any more");
        let left = match self.notices.borrow().aside {
            Some(aside) => aside.to_string(),
            None => "left".to_owned(),
        };
        service::status(&format!("{left}; no route table leads here"));
    }

    /// One look, and the handing over where it is time.
    async fn step(&self, began: Instant, others: &mut Others) -> Step {
        let troubles = &self.session.troubles;
        let key = &self.settings.claim.owner_tag;
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
        let mut stranded = Vec::new();
        let done = self.hand_over(&tables, others, &mut stranded).await;
        match troubles.tell(LEAVING, done) {
            Some(()) => Step::HandedOver,
            None if !stranded.is_empty() && self.is_given_up().await => Step::GivenUp(stranded),
            None => Step::Failed,
        }
    }

    /// Whether the group whose hook holds this instance wants no NAT any more. What it does not say
    /// it does.
    async fn is_given_up(&self) -> bool {
        let (true, Some(group)) = (self.notices.borrow().terminated, self.group.get()) else {
            return false;
        };
        let wanted = self.session.autoscaling.wants_nobody(group);
        let wanted = self.session.within(CANDIDATE_TIME, wanted).await;
        let told = self
            .session
            .troubles
            .tell("asking whether the group wants a NAT", wanted);
        told == Some(true)
    }

    /// When a replacement is waited for no longer.
    fn hands_over_at(&self, began: Instant) -> Instant {
        let notices = self.notices.borrow();
        let Notices {
            terminated,
            interruption,
            ..
        } = &*notices;
        // One that stands aside has no replacement to come, or not here.
        if interruption.is_some() || self.duty(&notices) == Duty::StandAside {
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

    /// All that leads here. Fails where anything stays; `stranded` is then what nobody can take,
    /// if that is all.
    async fn hand_over(
        &self,
        tables: &[Table],
        others: &Others,
        stranded: &mut Vec<TableId>,
    ) -> Result<()> {
        let (session, nat) = (&self.session, &self.nat);
        let key = &self.settings.claim.owner_tag;
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
        let stays = rows.iter().filter(|row| !row.is_gone());
        if stays.clone().all(|row| row.to.is_none()) {
            stranded.extend(stays.map(|row| row.table.id.clone()));
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
