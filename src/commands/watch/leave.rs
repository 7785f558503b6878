//! Leaving: others get the default routes that lead here, and until then this instance forwards.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hanat_core::change::{Change, Outcome, To};
use hanat_core::ids::TableId;
use hanat_core::leaving::{self, Leaving, Look, Others};
use hanat_core::routes::Table;
use hanat_core::successors;
use tokio::time::sleep_until;

use super::{STEP_TIME, Watch, service};
use crate::tables::candidates;
use crate::tables::candidates::CANDIDATE_TIME;
use crate::tables::moving::Mover;

const LOOKING: &str = "looking at the route tables";
const LEAVING: &str = "leaving";

/// How long changing routes may take before the candidates are looked at anew: EC2 takes 31 s for
/// 200 tables.
const HANDOVER_TIME: Duration = Duration::from_mins(1);

/// How long one that leaves reads back what EC2 accepted before it looks anew: somebody may have
/// given it back.
const READ_BACK_TIME: Duration = Duration::from_secs(10);

impl Watch<'_> {
    /// For as long as there is a reason to: what comes to lead here later has to go, too.
    pub(super) async fn leave(&self) {
        let mut notices = self.notices.subscribe();
        let mut hold = self.hold.subscribe();
        let began = Instant::now();
        let mut leaving = Leaving::new(self.settings.linger);
        let mut announced = false;
        let mut others = Others::default();
        loop {
            let looked = Instant::now();
            let look = self.step(began, &mut others).await;
            let course = leaving.take_in(&look, looked, Instant::now());
            let before = self.left.send_replace(course.has_left.then_some(looked));
            if course.has_left && before.is_none() {
                self.tell_of_end(&look);
            }
            if let Look::Waiting(held) = look
                && !announced
            {
                let patience = humantime::format_duration(self.settings.drain_wait);
                tracing::info!(
                    "route tables that lead here: {held}; a replacement has {patience} at most"
                );
                announced = true;
            }
            // What may be more urgent is not waited out.
            tokio::select! {
                () = sleep_until(course.next.into()) => {}
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

    fn tell_of_end(&self, look: &Look) {
        if let Look::GivenUp(tables) = look {
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
    async fn step(&self, began: Instant, others: &mut Others) -> Look {
        let troubles = &self.session.troubles;
        let key = &self.settings.claim.owner_tag;
        let tables = self.session.ec2.owned_tables(&self.nat.vpc, key);
        let tables = self.session.within(STEP_TIME, tables).await;
        let Some(tables) = troubles.tell(LOOKING, tables) else {
            return Look::Failed;
        };
        others.remember(&tables, &self.nat, Instant::now());
        let held = tables.iter().filter(|table| self.nat.holds(table)).count();
        if held == 0 {
            troubles.over(LEAVING);
            return Look::Empty;
        }
        let at = leaving::hands_over_at(
            began,
            &self.notices.borrow(),
            self.settings.drain_on_rebalance,
            *self.hold.borrow(),
            self.settings.drain_wait,
        );
        if Instant::now() < at {
            service::status(&format!(
                "leaving; tables that wait for a replacement: {held}"
            ));
            return Look::Waiting(held);
        }
        service::status(&format!("leaving; tables to hand over: {held}"));
        let mut stranded = Vec::new();
        let done = self.hand_over(&tables, others, &mut stranded).await;
        match troubles.tell(LEAVING, done) {
            Some(()) => Look::HandedOver,
            None if !stranded.is_empty() && self.is_given_up().await => Look::GivenUp(stranded),
            None => Look::Failed,
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
        others.rule_out(&mut candidates, Instant::now());
        let mut rows = successors::plan(tables, nat, &candidates);
        let mover = Mover {
            session,
            nat,
            key,
            replaces_endpoints: false,
        };
        let changing = async {
            mover.carry_out(&mut rows).await;
            Ok(())
        };
        let changed = session.within(HANDOVER_TIME, changing).await;
        let shown = mover.verify(&mut rows, READ_BACK_TIME);
        let shown = session.within(READ_BACK_TIME, shown).await;
        for row in rows.iter().filter(|row| row.is_gone()) {
            tracing::info!("{}", said(row));
        }
        let stays = rows.iter().filter(|row| !row.is_gone());
        if stays.clone().all(|row| row.to.is_none()) {
            stranded.extend(stays.map(|row| row.id().clone()));
        }
        let failed = rows.iter();
        let mut failed = failed.filter_map(|row| Some((row.id(), row.outcome.reason()?)));
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

fn said(row: &Change) -> String {
    match &row.to {
        Some(To::Route(to)) if row.outcome == Outcome::Done => {
            format!("{} handed over to {to}", row.id())
        }
        _ => format!("{} was taken by somebody else", row.id()),
    }
}
