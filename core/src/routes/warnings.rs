//! What of route tables is probably not as somebody meant it. Pure, as the plan is.

use super::{ANY, Action, Step, Table};
use crate::ids::{Region, Zone, shown};

/// What of the VPC's tables with the owner tag is probably not as somebody meant it: a tag that names
/// nobody, and routes of a claimed table that win over the default route.
pub fn warnings(tables: &[Table], steps: &[Step], key: &str, region: &Region) -> Vec<String> {
    let nobodys = tables
        .iter()
        .filter(|table| !names_somebody(&table.owner, region));
    let nobodys = nobodys.map(|table| {
        format!(
            "{} is tagged {}={}, which is neither {ANY} nor the name of a zone of {region}: no NAT \
             claims it",
            table.id,
            key,
            shown(&table.owner)
        )
    });
    let claimed = steps
        .iter()
        .filter(|step| !matches!(step.action, Action::Refuse(_)));
    let passed_by = claimed.filter(|step| !step.table.larger_parts.is_empty());
    let passed_by = passed_by.map(|step| {
        let parts = step.table.larger_parts.iter();
        let parts: Vec<String> = parts
            .map(|(to, target)| format!("{to} → {target}"))
            .collect();
        format!(
            "{} has routes that win over its default route: {}",
            step.table.id,
            parts.join(", ")
        )
    });
    nobodys.chain(passed_by).collect()
}

/// Whether an owner tag names any NAT or a zone, this or another one, of the region. That begins a
/// zone's name (EC2 user guide, "Regions and Zones"), and does not begin a zone's ID.
fn names_somebody(owner: &str, region: &Region) -> bool {
    let rest = owner.strip_prefix(region.as_str());
    let is_zone =
        rest.is_some_and(|rest| rest.starts_with(|c: char| c == '-' || c.is_ascii_lowercase()));
    owner == ANY || (is_zone && owner.parse::<Zone>().is_ok())
}
