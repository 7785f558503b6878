//! When an instance that leaves hands its tables over, and who gets none of them because it leaves,
//! too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::TableId;
use crate::notices::{Duty, Notices};
use crate::routes::{Nat, Table, Target};
use crate::successors::Candidate;

/// Wait between two looks at the tables of an instance that leaves, and at whether its hook waits
/// yet. Describe calls refill at 20 a second for everybody in the account.
pub const LEAVING_INTERVAL: Duration = Duration::from_secs(1);

/// The same after one that failed, all its attempts included, and while there is nobody to hand
/// over to: each look at candidates takes five calls.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The same as `LEAVING_INTERVAL` once nothing leads to it any more.
const LEFT_INTERVAL: Duration = Duration::from_secs(10);

/// Kept of the time that a hook waits for handing routes over; at most half of it.
const HANDOVER_RESERVE: Duration = Duration::from_secs(30);

/// How long a terminating hook holds the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Not known yet.
    Asking,
    /// From when, and until when at most.
    For(Instant, Instant),
    /// Not at all (any more).
    No,
}

/// When a replacement is waited for no longer, by one that began to leave at `began` and waits for
/// `patience` at most. `on_rebalance`: see [`Notices::duty`].
pub fn hands_over_at(
    began: Instant,
    notices: &Notices,
    on_rebalance: bool,
    hold: Hold,
    patience: Duration,
) -> Instant {
    // One that stands aside has no replacement to come, or not here.
    if notices.interruption.is_some() || notices.duty(on_rebalance) == Duty::StandAside {
        return began;
    }
    let patient = began + patience;
    match (notices.terminated, hold) {
        (true, Hold::No) => began,
        (true, Hold::For(since, until)) => {
            let holds = until.saturating_duration_since(since);
            let kept = HANDOVER_RESERVE.min(holds / 2);
            patient.min(since + holds.saturating_sub(kept))
        }
        _ => patient,
    }
}

/// What one look at the tables came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
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

/// An instance that leaves, from one look at the tables to the next.
#[derive(Debug)]
pub struct Leaving {
    linger: Duration,
    /// Since when nothing leads here, as far as looks say.
    empty_since: Option<Instant>,
}

/// What a look means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Whether nobody needs the instance any more: nothing has led here for the time to linger, or
    /// nobody is to take what does.
    pub has_left: bool,
    /// When to look again, at the latest.
    pub next: Instant,
}

impl Leaving {
    /// It goes on forwarding for `linger` after the last route has left.
    pub fn new(linger: Duration) -> Self {
        Self {
            linger,
            empty_since: None,
        }
    }

    /// Takes in a look that began at `looked` and ended `now`. A table that came back, and one that
    /// nobody knows of, begin the time to linger anew.
    pub fn take_in(&mut self, look: &Look, looked: Instant, now: Instant) -> Course {
        self.empty_since = match look {
            Look::Empty => self.empty_since.or(Some(now)),
            Look::HandedOver => Some(now),
            Look::Waiting(_) | Look::GivenUp(_) | Look::Failed => None,
        };
        let has_left = match look {
            // What a look shows is as old as its beginning.
            Look::Empty => (self.empty_since).is_some_and(|since| looked >= since + self.linger),
            Look::GivenUp(_) => true,
            Look::Waiting(_) | Look::HandedOver | Look::Failed => false,
        };
        let pause = match look {
            Look::Failed | Look::GivenUp(_) => RETRY_INTERVAL,
            Look::Empty if has_left => LEFT_INTERVAL,
            Look::Waiting(_) => LEAVING_INTERVAL,
            Look::Empty | Look::HandedOver => {
                LEAVING_INTERVAL.min(self.linger.max(LEAVING_INTERVAL / 10))
            }
        };
        Course {
            has_left,
            next: looked + pause,
        }
    }
}

/// What is known of those who leave at the same time, which nobody else tells: two Spot Instances
/// that are taken at once would hand their tables back and forth.
#[derive(Debug, Default)]
pub struct Others {
    /// Where each table led at the last look.
    led_to: BTreeMap<TableId, Target>,
    /// Whoever gave a table to this instance while it was leaving, and when that was seen.
    leaving: Vec<(Target, Instant)>,
}

/// How long somebody who gave a table away counts as leaving: a person or a read that lags may
/// have made it look so.
const LEAVING_TOO: Duration = Duration::from_secs(30);

impl Others {
    /// Takes in what a look showed.
    pub fn remember(&mut self, tables: &[Table], nat: &Nat, now: Instant) {
        for table in tables {
            let Some(route) = &table.default_route else {
                continue;
            };
            let before = self.led_to.insert(table.id.clone(), route.target.clone());
            if let Some(before @ Target::Instance { .. }) = before
                && nat.holds(table)
                && !nat.next_hop().is(&before)
            {
                self.leaving.push((before, now));
            }
        }
    }

    /// Those of the candidates that are leaving, too, get nothing.
    pub fn rule_out(&self, candidates: &mut [Candidate], now: Instant) {
        for candidate in candidates {
            let gave = self.leaving.iter().any(|(target, when)| {
                candidate.hop.is(target) && now.saturating_duration_since(*when) < LEAVING_TOO
            });
            if gave {
                candidate.trouble = Some("it is leaving, too".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests;
