//! What the reports of several commands have in common.

use std::fmt::Write;

use anyhow::Error;
use hanat_core::change::{Change, Outcome};
use hanat_core::routes::Shown;

use crate::aws::imds::{Instance, Network};

/// What a command that changes tables found, did and failed at; filled as it goes on.
#[derive(Debug)]
pub struct Common {
    /// Whether changes were only planned.
    pub dry_run: bool,
    /// Key of the owner tag.
    pub owner_tag: String,
    /// This instance, once known.
    pub instance: Option<Instance>,
    /// Its place in the VPC, once known.
    pub network: Option<Network>,
    /// A row for each tagged table that the command is about, in the order of the plan.
    pub rows: Vec<Change>,
    /// Tagged tables that could not be understood, each with why. They may have been among them.
    pub odd_tables: Vec<String>,
    /// Why the run failed.
    pub error: Option<Error>,
}

impl Common {
    /// Nothing is known yet.
    pub fn new(owner_tag: &str, dry_run: bool) -> Self {
        Self {
            dry_run,
            owner_tag: owner_tag.to_owned(),
            instance: None,
            network: None,
            rows: Vec::new(),
            odd_tables: Vec::new(),
            error: None,
        }
    }
}

/// A command's words for what it is after and for what somebody else did first.
pub struct Words {
    /// Of what is as it was to be.
    pub done: &'static str,
    /// Of what somebody else changed, or put back.
    pub overtaken: &'static str,
}

impl Words {
    /// What became of a table, as reports spell it.
    pub fn name(&self, outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Planned => "planned",
            Outcome::Accepted => "unverified",
            Outcome::Done => self.done,
            Outcome::Kept => "kept",
            Outcome::Overtaken => self.overtaken,
            Outcome::Refused(_) => "refused",
            Outcome::Failed(_) => "failed",
        }
    }

    /// The same with why, where that is known.
    pub fn result(&self, outcome: &Outcome) -> String {
        let name = self.name(outcome);
        match outcome.reason() {
            Some(reason) => format!("{name}: {reason}"),
            None => name.to_owned(),
        }
    }
}

/// Where a table leads, and where it led before if that is elsewhere.
pub fn route(row: &Change, after: Option<String>) -> String {
    let before = Shown(row.table.default_route.as_ref()).to_string();
    let after = after.unwrap_or_else(|| Shown(None).to_string());
    if before == after {
        before
    } else {
        format!("{before} → {after}")
    }
}

/// Exit codes; `hanat --help` lists them.
pub mod exit {
    /// Done, or nothing to do.
    pub const DONE: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong usage; the number is the one clap ends with.
    pub const USAGE: u8 = 2;
    /// Some tables refused, or all; every other one is done. It is the same the next time.
    pub const REFUSED: u8 = 3;
    /// Some tables failed, others are done. The next time may do better.
    pub const PARTIAL: u8 = 4;
}

/// Where this is, as far as it is known.
pub fn place(common: &Common) -> String {
    let (Some(instance), Some(network)) = (&common.instance, &common.network) else {
        return String::new();
    };
    format!(
        "{} ({}, {}) in {}, {}\n",
        instance.instance_id,
        network.interface_id,
        network.private_address,
        network.availability_zone,
        network.vpc_id
    )
}

/// Columns as wide as their widest cell; the last one is left ragged.
pub fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == N {
                text.push_str(cell);
            } else {
                let _ = write!(text, "{cell:<width$}  ", width = width(column));
            }
        }
        text.push('\n');
    }
    text
}
