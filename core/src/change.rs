//! One table's change, from the decision until reads of EC2 settle it. Those are eventually consistent:
//! one may show what was before the change, and the next one, too.

use crate::ids::TableId;
use crate::routes::{Action, DefaultRoute, NextHop, Shown, Step, Table, Target};

/// What a table is changed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Its default route leads there.
    Route(NextHop),
}

impl To {
    /// Where the clients of the table get out then.
    pub fn hop(&self) -> &NextHop {
        let Self::Route(hop) = self;
        hop
    }
}

/// A table and what becomes of it.
#[derive(Debug)]
pub struct Change {
    /// As it was decided on.
    pub table: Table,
    /// It is changed only while it leads there, and whoever else turns it away does as well. Without
    /// this, whatever it leads to is replaced.
    pub from: Option<NextHop>,
    /// What it is changed to; none where nobody can take it.
    pub to: Option<To>,
    /// What became of it.
    pub outcome: Outcome,
    /// Its default route as read last, after the change.
    pub after: Option<DefaultRoute>,
    /// Whether the last read did not show the table at all.
    absent: bool,
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was done yet, or only planned.
    Planned,
    /// EC2 accepted the change; nothing has shown it yet.
    Accepted,
    /// It is as it was to be, as EC2 shows.
    Done,
    /// It was so before.
    Kept,
    /// Somebody else changed it, or put it back.
    Overtaken,
    /// It must not be touched.
    Refused(String),
    /// The change failed.
    Failed(String),
}

impl Outcome {
    /// Why it is not as it was to be, where that is known.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(reason) | Self::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Change {
    /// Of a step of a claim's plan, which makes tables lead to `here`.
    pub fn claim(step: Step, here: &NextHop) -> Self {
        let outcome = match step.action {
            Action::Keep => Outcome::Kept,
            Action::Refuse(refusal) => Outcome::Refused(refusal.to_string()),
            Action::Create | Action::Replace => Outcome::Planned,
        };
        Self {
            table: step.table,
            from: None,
            to: Some(To::Route(here.clone())),
            outcome,
            after: None,
            absent: false,
        }
    }

    /// Of a table that leads to `from`, for whoever is to have it next, or with why nobody can.
    pub fn hand_over(table: Table, from: &NextHop, to: Result<NextHop, String>) -> Self {
        let (to, outcome) = match to {
            Ok(to) => (Some(To::Route(to)), Outcome::Planned),
            Err(nobody) => (None, Outcome::Failed(nobody)),
        };
        Self {
            table,
            from: Some(from.clone()),
            to,
            outcome,
            after: None,
            absent: false,
        }
    }

    /// The table's ID.
    pub fn id(&self) -> &TableId {
        &self.table.id
    }

    /// Whether it leads no more to where it was to be turned away from.
    pub fn is_gone(&self) -> bool {
        matches!(self.outcome, Outcome::Done | Outcome::Overtaken)
    }

    /// Whether it is to be changed, and that has not been tried yet.
    pub fn is_planned(&self) -> bool {
        self.outcome == Outcome::Planned
    }

    /// Whether the next read may settle it.
    pub fn is_open(&self) -> bool {
        matches!(self.outcome, Outcome::Planned | Outcome::Accepted)
    }

    /// Whether it takes another read: to see what EC2 accepted, or where it leads instead.
    pub fn wants_read(&self) -> bool {
        match self.outcome {
            Outcome::Accepted => true,
            Outcome::Overtaken => self.after.is_none() && !self.absent,
            _ => false,
        }
    }

    /// Takes in what the table shows now; none where it is gone.
    ///
    /// That it leads where it led before may be a read that lags behind. Once none does any more
    /// (`may_lag`), and it is seen twice in a row, somebody has put it back. That it leads elsewhere
    /// or is gone counts at once where it only had to be turned away: a read that lags would show
    /// that it was not. Else it counts when it is seen twice in a row.
    pub fn settle(&mut self, now: Option<&Table>, may_lag: bool) {
        if !self.is_open() && !self.wants_read() {
            return;
        }
        let route = now.and_then(|now| now.default_route.clone());
        let was_absent = std::mem::replace(&mut self.absent, now.is_none());
        let before = std::mem::replace(&mut self.after, route);
        let twice = before == self.after && was_absent == self.absent;
        if let Some(outcome) = self.shown(now, twice, may_lag) {
            self.outcome = outcome;
        }
    }

    /// What the read comes to, if to anything.
    fn shown(&self, now: Option<&Table>, twice: bool, may_lag: bool) -> Option<Outcome> {
        if !self.is_open() {
            return None;
        }
        let to = self.to.as_ref().map(To::hop);
        if let (Some(now), Some(to)) = (now, to)
            && to.holds(now)
        {
            return Some(Outcome::Done);
        }
        if let Some(from) = &self.from {
            return match (now, to) {
                (Some(now), _) if from.holds(now) => None,
                (Some(now), Some(to)) if to.is_dead_in(now) => {
                    Some(Outcome::Failed(format!("{to} is gone since")))
                }
                _ => Some(Outcome::Overtaken),
            };
        }
        if !twice {
            return None;
        }
        let id = self.id();
        let Some(now) = now else {
            let gone = format!("{id}: it is gone, or not tagged any more");
            return Some(Outcome::Failed(gone));
        };
        let route = now.default_route.as_ref()?;
        if self.outcome == Outcome::Planned {
            return None;
        }
        if now.default_route == self.table.default_route {
            let is_nobodys = route.blackhole || route.propagated;
            return (!may_lag && !is_nobodys).then_some(Outcome::Overtaken);
        }
        Some(match route.target {
            Target::Instance { .. } => Outcome::Overtaken,
            _ => Outcome::Failed(format!("{id}: somebody else made it lead to {route}")),
        })
    }

    /// Why what EC2 accepted is not settled.
    pub fn why_open(&self) -> String {
        const ACCEPTED: &str = "EC2 accepted the change and still shows";
        let id = self.id();
        match self.from {
            Some(_) => format!("{ACCEPTED} {id} here"),
            None => format!("{id}: {ACCEPTED} {}", Shown(self.after.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests;
