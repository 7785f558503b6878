//! What a run found, did and failed at, as one readable table or one JSON document. Both say
//! the same; the JSON's field names are stable and documented in docs/claim.md.

use anyhow::{Result, bail};
use hanat_core::change::{Change, Outcome};
use hanat_core::lifecycle::{Aside, TargetState};

use crate::aws::autoscaling::{Answer, Member};
use crate::commands::report::{Common, exit};
use crate::kernel::Prepared;

/// A run's report, filled as the run goes on.
#[derive(Debug)]
pub struct Report {
    /// What it has in common with other commands' reports.
    pub common: Common,
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
    /// What of the route tables deserves a look.
    pub warnings: Vec<String>,
    /// What the group said and was told.
    pub lifecycle: Option<Lifecycle>,
    /// Whether a hook may be waiting that could not be answered.
    pub unanswered: bool,
}

/// Whether this instance claimed the table: it leads here, or did until another NAT claimed it in turn.
fn is_held(change: &Change) -> bool {
    matches!(
        change.outcome,
        Outcome::Done | Outcome::Kept | Outcome::Overtaken
    )
}

fn why_lost(change: &Change) -> String {
    let id = change.id();
    match &change.outcome {
        Outcome::Failed(reason) => reason.clone(),
        Outcome::Refused(reason) => format!("{id} refused: {reason}"),
        Outcome::Accepted => change.why_open(),
        _ => format!("{id}: not tried"),
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
            common: Common::new(owner_tag, dry_run),
            target_state: None,
            aside: None,
            kernel: None,
            check_was_on: None,
            check_is_on: false,
            warnings: Vec::new(),
            lifecycle: None,
            unanswered: false,
        }
    }

    /// Whether nothing more can be learned by reading back.
    pub fn is_settled(&self) -> bool {
        !self.common.rows.iter().any(Change::is_open)
    }

    /// Fails unless every table was claimed or kept (or, in a dry run, can be).
    pub fn verdict(&self) -> Result<()> {
        let Common {
            rows, odd_tables, ..
        } = &self.common;
        let all = rows.len() + odd_tables.len();
        let lost = rows.iter().filter(|row| !self.is_fine(row));
        let lost = lost.map(why_lost).chain(odd_tables.iter().cloned());
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
        self.common.rows.iter().any(is_held) && !self.check_is_on
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        let Common {
            rows,
            odd_tables,
            dry_run,
            error,
            ..
        } = &self.common;
        if error.is_none() {
            return exit::DONE;
        }
        let refused = |row: &&Change| matches!(row.outcome, Outcome::Refused(_));
        let fine = rows.iter().filter(|row| self.is_fine(row)).count();
        let refused = rows.iter().filter(refused).count();
        let failed = rows.len() - fine - refused + odd_tables.len();
        let forwards = self.kernel.is_some() && (*dry_run || !self.check_is_on);
        if !self.unanswered && failed == 0 && refused > 0 && forwards {
            exit::REFUSED
        } else if !self.unanswered && failed > 0 && fine > 0 {
            exit::PARTIAL
        } else {
            exit::FAILED
        }
    }

    fn is_fine(&self, row: &Change) -> bool {
        is_held(row) || (self.common.dry_run && row.is_planned())
    }
}

#[cfg(test)]
mod tests;
