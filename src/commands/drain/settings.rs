//! What `hanat drain` is to do.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hanat_core::successors::Named;

use crate::commands::cli::DrainArgs;
use crate::commands::settings::{deadline, given, owner_tag};

/// What `hanat drain` is to do.
#[derive(Debug)]
pub struct DrainSettings {
    /// Key of the owner tag.
    pub owner_tag: String,
    /// Who gets the routes, where the user named somebody.
    pub to: Option<Named>,
    /// Time for the whole run.
    pub deadline: Duration,
    /// Whether to stop before the first change.
    pub dry_run: bool,
}

impl DrainSettings {
    /// Checks what the flags say. Errors name the flag and what it was given.
    pub fn new(args: &DrainArgs) -> Result<Self> {
        let to = given(args.to.as_ref());
        Ok(Self {
            owner_tag: owner_tag(&args.owner.owner_tag)?,
            to: to.map(|id| named(&id).context("--to")).transpose()?,
            deadline: deadline(args.time.deadline)?,
            dry_run: args.run.dry_run,
        })
    }
}

fn named(id: &str) -> Result<Named> {
    let instance = id.parse().map(Named::Instance);
    let instance = instance.or_else(|_| id.parse().map(Named::Interface));
    instance
        .or_else(|_| id.parse().map(Named::NatGateway))
        .map_err(|_| {
            let shown: String = id.chars().take(80).collect();
            anyhow!("expected the ID of an instance, an interface or a NAT gateway, got {shown:?}")
        })
}
