//! What a run found, did and failed at, as one readable table or one JSON document. Both say
//! the same; the JSON's field names are stable and documented in docs/claim.md.

use anyhow::{Error, Result, bail};
use hanat_core::ids::TableId;
use hanat_core::lifecycle::{Aside, TargetState};
use hanat_core::routes::{Action, DefaultRoute, Nat, Step, Table, Target};

use crate::aws::autoscaling::{Answer, Member};
use crate::aws::imds::{Instance, Network};
use crate::commands::report::{Shown, exit};
use crate::kernel::Prepared;

/// A run's report, filled as the run goes on.
#[derive(Debug)]
pub struct Report {
    /// Whether changes were only planned.
    pub dry_run: bool,
    /// Key of the owner tag.
    pub owner_tag: String,
    /// This instance, once known.
    pub instance: Option<Instance>,
    /// Its place in the VPC, once known.
    pub network: Option<Network>,
    /// What IMDS says of where the group is taking this instance; `None` outside a group, and until
    /// `network` is known.
    pub target_state: Option<TargetState>,
    /// What keeps this instance from serving, so that nothing is claimed.
    pub aside: Option<Aside>,
    /// What was found and done in the kernel, once it is a NAT.
    pub kernel: Option<Prepared>,
    /// Whether the source/destination check was found on, once known.
    pub check_was_on: Option<bool>,
    /// Whether it is on as far as was seen last.
    pub check_is_on: bool,
    /// A row for each tagged table, in the order of the plan.
    pub rows: Vec<Row>,
    /// Tagged tables that could not be understood, each with why. They may have been ours.
    pub odd_tables: Vec<String>,
    /// What of the route tables deserves a look.
    pub warnings: Vec<String>,
    /// What the group said and was told.
    pub lifecycle: Option<Lifecycle>,
    /// Whether a hook may be waiting that could not be answered.
    pub unanswered: bool,
    /// Why the run failed.
    pub error: Option<Error>,
}

/// A table and what became of it.
#[derive(Debug)]
pub struct Row {
    /// The table as it was read first.
    pub table: Table,
    /// What was planned.
    pub action: Action,
    /// What became of it.
    pub outcome: Outcome,
    /// The default route as read last, after a change.
    pub after: Option<DefaultRoute>,
    /// Whether the last read did not show the table at all.
    pub absent: bool,
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was done yet, or only planned.
    Planned,
    /// EC2 accepted the change; nothing has shown it yet.
    Accepted,
    /// Its default route leads here, as EC2 shows.
    Claimed,
    /// It led here before.
    Kept,
    /// Another instance claimed it right after this one, or somebody put it back.
    Superseded,
    /// It must not be touched.
    Refused(String),
    /// The change failed.
    Failed(String),
}

impl Outcome {
    /// As the table and the JSON spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Accepted => "unverified",
            Self::Claimed => "claimed",
            Self::Kept => "kept",
            Self::Superseded => "superseded",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it was not claimed.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(reason) | Self::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Row {
    /// A row for a planned step.
    pub fn new(step: Step) -> Self {
        let outcome = match &step.action {
            Action::Keep => Outcome::Kept,
            Action::Refuse(refusal) => Outcome::Refused(refusal.to_string()),
            Action::Create | Action::Replace => Outcome::Planned,
        };
        Self {
            table: step.table,
            action: step.action,
            outcome,
            after: None,
            absent: false,
        }
    }

    /// Whether this instance claimed the table: it leads here, or did until another NAT
    /// claimed it in turn.
    pub fn is_held(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Claimed | Outcome::Kept | Outcome::Superseded
        )
    }

    /// Takes in what the table shows now, if its change is under way. Reads are eventually
    /// consistent: that it leads elsewhere or is gone counts only when it is seen twice in a row,
    /// and that it leads where it led before the change counts only when reads no longer lag
    /// behind (`may_lag`): then somebody has put it back.
    pub fn settle(&mut self, now: Option<&Table>, nat: &Nat, may_lag: bool) {
        if !matches!(self.outcome, Outcome::Accepted | Outcome::Planned) {
            return;
        }
        let id = &self.table.id;
        let accepted = self.outcome == Outcome::Accepted;
        let Some(now) = now else {
            if self.absent {
                let gone = format!("{id}: it is gone, or not tagged any more");
                self.outcome = Outcome::Failed(gone);
            }
            self.absent = true;
            return;
        };
        self.absent = false;
        if nat.holds(now) {
            self.outcome = Outcome::Claimed;
        } else if let Some(route) = &now.default_route
            && accepted
            && now.default_route == self.after
        {
            let as_before = now.default_route == self.table.default_route;
            match route.target {
                _ if as_before && (may_lag || route.blackhole || route.propagated) => {}
                Target::Instance { .. } => self.outcome = Outcome::Superseded,
                _ if as_before => self.outcome = Outcome::Superseded,
                _ => {
                    let why = format!("{id}: somebody else made it lead to {route}");
                    self.outcome = Outcome::Failed(why);
                }
            }
        }
        self.after.clone_from(&now.default_route);
    }

    fn why_lost(&self) -> String {
        let id = &self.table.id;
        match &self.outcome {
            Outcome::Failed(reason) => reason.clone(),
            Outcome::Refused(reason) => format!("{id} refused: {reason}"),
            Outcome::Accepted => format!(
                "{id}: EC2 accepted the change and still shows {}",
                Shown(self.after.as_ref())
            ),
            _ => format!("{id}: not tried"),
        }
    }
}

/// What the Auto Scaling group said, and what it was told.
#[derive(Debug)]
pub struct Lifecycle {
    /// The group and this instance's state.
    pub member: Member,
    /// The hook that was answered, and how.
    pub answered: Option<(String, Answer)>,
}

impl Report {
    /// An empty report.
    pub fn new(owner_tag: &str, dry_run: bool) -> Self {
        Self {
            dry_run,
            owner_tag: owner_tag.to_owned(),
            instance: None,
            network: None,
            target_state: None,
            aside: None,
            kernel: None,
            check_was_on: None,
            check_is_on: false,
            rows: Vec::new(),
            odd_tables: Vec::new(),
            warnings: Vec::new(),
            lifecycle: None,
            unanswered: false,
            error: None,
        }
    }

    /// The changes the plan asks for: row, table, action.
    pub fn changes(&self) -> Vec<(usize, TableId, Action)> {
        self.rows
            .iter()
            .enumerate()
            .filter(|(_, row)| matches!(row.action, Action::Create | Action::Replace))
            .map(|(index, row)| (index, row.table.id.clone(), row.action.clone()))
            .collect()
    }

    /// Whether nothing more can be learned by reading back.
    pub fn is_settled(&self) -> bool {
        let open = |row: &Row| matches!(row.outcome, Outcome::Accepted | Outcome::Planned);
        !self.rows.iter().any(open)
    }

    /// What was accepted and has not been seen yet.
    pub fn unverified(&self) -> Option<String> {
        let open = self.rows.iter();
        let open = open.filter(|row| row.outcome == Outcome::Accepted);
        let mut texts: Vec<String> = open.map(Row::why_lost).collect();
        if self.check_is_on {
            texts.push("the source/destination check is still on".to_owned());
        }
        (!texts.is_empty()).then(|| texts.join(", "))
    }

    /// Fails unless every table was claimed or kept (or, in a dry run, can be).
    pub fn verdict(&self) -> Result<()> {
        let all = self.rows.len() + self.odd_tables.len();
        let lost = self.rows.iter().filter(|row| !self.is_fine(row));
        let lost = lost
            .map(Row::why_lost)
            .chain(self.odd_tables.iter().cloned());
        let lost: Vec<String> = lost.collect();
        if lost.is_empty() {
            return Ok(());
        }
        let whys: Vec<String> = lost.iter().take(3).cloned().collect();
        let mut whys = whys.join("; ");
        if lost.len() > 3 {
            whys = format!("{whys}; and {} more", lost.len() - 3);
        }
        if lost.len() == all {
            bail!("none of {all} route tables claimed: {whys}");
        }
        bail!("{} of {all} route tables not claimed: {whys}", lost.len());
    }

    /// Whether any table counts on this instance, and it can forward.
    pub fn serves(&self) -> bool {
        self.rows.iter().any(Row::is_held) && !self.check_is_on
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        if self.error.is_none() {
            return exit::DONE;
        }
        let refused = |row: &&Row| matches!(row.outcome, Outcome::Refused(_));
        let fine = self.rows.iter().filter(|row| self.is_fine(row)).count();
        let refused = self.rows.iter().filter(refused).count();
        let failed = self.rows.len() - fine - refused + self.odd_tables.len();
        let forwards = self.kernel.is_some() && (self.dry_run || !self.check_is_on);
        if !self.unanswered && failed == 0 && refused > 0 && forwards {
            exit::REFUSED
        } else if !self.unanswered && failed > 0 && fine > 0 {
            exit::PARTIAL
        } else {
            exit::FAILED
        }
    }

    fn is_fine(&self, row: &Row) -> bool {
        row.is_held() || (self.dry_run && row.outcome == Outcome::Planned)
    }
}

#[cfg(test)]
mod tests;
