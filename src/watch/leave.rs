//! Leaving: others get the default routes that lead here, and until then this instance forwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep_until};

use super::hook::Hold;
use super::{Watch, service};
use crate::candidates;
use crate::config::{
    HANDOVER_RESERVE, HANDOVER_TIME, LEAVING_INTERVAL, LEFT_INTERVAL, RETRY_INTERVAL, STEP_TIME,
};
use crate::handover::{self, Outcome, Row};
use crate::ids::TableId;
use crate::notices::Notices;
use crate::routes::{Nat, Table, Target};
use crate::successors::Candidate;

const LEAVING: &str = "leaving";

impl Watch<'_> {
    /// From the first reason on, for as long as the process lives: what comes to lead here later
    /// has to go, too.
    pub(super) async fn leave(&self) {
        let mut notices = self.notices.subscribe();
        // It lives as long as this.
        let _ = notices.wait_for(|notices| self.leaves(notices)).await;
        let began = Instant::now();
        let mut empty_since = None;
        let mut announced = false;
        let mut others = Others::default();
        loop {
            let looked = Instant::now();
            let stepped = self.step(began, &mut others).await;
            let pause = match &stepped {
                Err(_) => RETRY_INTERVAL,
                Ok(0) if self.left.borrow().is_some() => LEFT_INTERVAL,
                Ok(0) => LEAVING_INTERVAL.min(self.settings.linger.max(LEAVING_INTERVAL / 10)),
                Ok(_) => LEAVING_INTERVAL,
            };
            match stepped {
                Ok(0) => {
                    self.session.troubles.over(LEAVING);
                    let since = *empty_since.get_or_insert_with(Instant::now);
                    if looked >= since + self.settings.linger
                        && self.left.send_replace(Some(looked)).is_none()
                    {
                        tracing::info!("no route table leads here any more");
                        service::status("left; no route table leads here");
                    }
                }
                Ok(held) => {
                    self.session.troubles.over(LEAVING);
                    empty_since = None;
                    self.left.send_replace(None);
                    if !announced {
                        let patience = humantime::format_duration(self.settings.drain_wait);
                        tracing::info!(
                            "route tables that lead here: {held}; a replacement has {patience} at \
                             most"
                        );
                        announced = true;
                    }
                }
                Err(error) => self.session.troubles.warn(LEAVING, &format!("{error:#}")),
            }
            // More urgent ones are not waited out.
            tokio::select! {
                () = sleep_until(looked + pause) => {}
                _ = notices.changed() => {}
            }
        }
    }

    /// One look, and the handing over where it is time. Says how many tables still lead here.
    async fn step(&self, began: Instant, others: &mut Others) -> Result<usize> {
        let key = &self.settings.owner_tag;
        let tables = self.session.ec2.owned_tables(&self.nat.vpc, key);
        let tables = self.session.within(STEP_TIME, tables).await?;
        others.remember(&tables, &self.nat);
        let held = tables.iter().filter(|table| self.nat.holds(table)).count();
        if held == 0 {
            return Ok(0);
        }
        if Instant::now() < self.hands_over_at(began) {
            service::status(&format!(
                "leaving; tables that wait for a replacement: {held}"
            ));
            return Ok(held);
        }
        service::status(&format!("leaving; tables to hand over: {held}"));
        self.session
            .within(HANDOVER_TIME, self.hand_over(&tables, others))
            .await
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
        match (terminated.is_some(), *self.hold.borrow()) {
            (true, Hold::No) => began,
            (true, Hold::For(since, until)) => {
                patient.min(until - HANDOVER_RESERVE.min((until - since) / 2))
            }
            _ => patient,
        }
    }

    async fn hand_over(&self, tables: &[Table], others: &Others) -> Result<usize> {
        let key = &self.settings.owner_tag;
        let mut candidates = candidates::find(&self.session, &self.nat, key, tables).await?;
        others.rule_out(&mut candidates);
        let mut rows = handover::plan(tables, &self.nat, &candidates);
        handover::carry_out(&self.session, &self.nat, key, &mut rows).await?;
        for row in rows.iter().filter(|row| row.is_gone()) {
            tracing::info!("{}", said(row));
        }
        let stay: Vec<&Row> = rows.iter().filter(|row| !row.is_gone()).collect();
        if let Some(Row {
            table,
            outcome: Outcome::Failed(why),
            ..
        }) = stay.first()
        {
            let more = match stay.len() {
                1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            return Err(anyhow!("{}{more}: {why}", table.id));
        }
        Ok(stay.len())
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
            if let Some(before) = before
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
