//! A claim's report on standard output: one readable table, or one JSON document.

use std::fmt::Write;

use hanat_core::change::{Change, Outcome};
use serde_json::{Value, json};

use crate::commands::claim::report::Report;
use crate::commands::report::{Words, align, place, route};
use crate::kernel::Prepared;

const WORDS: Words = Words {
    done: "claimed",
    overtaken: "superseded",
};

/// For programs. docs/claim.md documents the fields.
pub fn json(report: &Report) -> String {
    let network = report.common.network.as_ref();
    let lifecycle = report.lifecycle.as_ref();
    let document = json!({
        "command": "claim",
        "version": env!("CARGO_PKG_VERSION"),
        "dry_run": report.common.dry_run,
        "instance": report.common.instance,
        "network": network,
        "target_lifecycle_state": report.target_state,
        "kernel": report.kernel,
        "source_dest_check_was_on": report.check_was_on,
        "owner_tag": report.common.owner_tag,
        "tables": report.common.rows.iter().map(|row| table(report, row)).collect::<Vec<_>>(),
        "lifecycle": lifecycle.map(|lifecycle| json!({
            "group": lifecycle.member.group,
            "state": lifecycle.member.state.to_string(),
            "hook": lifecycle.answered.as_ref().map(|(hook, _)| hook),
            "result": lifecycle.answered.as_ref().map(|(_, answer)| answer.as_str()),
        })),
        "warnings": report.warnings,
        "error": report.common.error.as_ref().map(|error| format!("{error:#}")),
        "exit_code": report.exit_code(),
    });
    format!("{document:#}\n")
}

fn table(report: &Report, row: &Change) -> Value {
    let before = row.table.default_route.as_ref().map(ToString::to_string);
    json!({
        "route_table_id": row.table.id,
        "tag": row.table.owner,
        "availability_zone": report.common.network.as_ref().map(|n| &n.availability_zone),
        "before": before,
        "after": after(report, row),
        "action": match row.outcome {
            Outcome::Kept => "keep",
            Outcome::Refused(_) => "refuse",
            _ if row.table.lacks_static_route() => "create",
            _ => "replace",
        },
        "result": WORDS.name(&row.outcome),
        "reason": row.outcome.reason(),
    })
}

/// The default route as it is now or, in a dry run, as it would be; `None` where there is none.
fn after(report: &Report, row: &Change) -> Option<String> {
    match (&row.outcome, &row.after) {
        (Outcome::Planned, None) if report.common.dry_run => {
            let instance = report.common.instance.as_ref()?;
            let network = report.common.network.as_ref()?;
            Some(format!("{}/{}", instance.instance_id, network.interface_id))
        }
        (_, Some(after)) => Some(after.to_string()),
        (_, None) => row.table.default_route.as_ref().map(ToString::to_string),
    }
}

/// For people.
pub fn text(report: &Report) -> String {
    let mut text = place(&report.common);
    if let Some(kernel) = &report.kernel {
        text.push_str(&kernel_lines(kernel, report.common.dry_run));
    }
    if report.common.dry_run && report.check_was_on == Some(true) {
        text.push_str("would turn the source/destination check off\n");
    }
    if !report.common.rows.is_empty() {
        text.push_str(&rows(report));
    }
    for warning in &report.warnings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "warning: {warning}");
    }
    if let Some(lifecycle) = &report.lifecycle {
        let _ = write!(
            text,
            "Auto Scaling group {}: {}",
            lifecycle.member.group, lifecycle.member.state
        );
        if let Some((hook, answer)) = &lifecycle.answered {
            let _ = write!(text, ", hook {hook} completed with {answer}");
        }
        text.push('\n');
    }
    if report.common.error.is_none() {
        let _ = writeln!(text, "{}", summary(report));
    }
    text
}

fn kernel_lines(kernel: &Prepared, dry_run: bool) -> String {
    let interface = &kernel.interface;
    let mut text = match (kernel.changes.is_empty(), dry_run) {
        (true, _) => format!("{interface} forwards and masquerades\n"),
        (_, true) => format!("would make {interface} forward and masquerade:\n"),
        (false, false) => format!("{interface} was made to forward and masquerade:\n"),
    };
    for change in &kernel.changes {
        let _ = writeln!(text, "  {change}");
    }
    for chain in &kernel.masquerading_elsewhere {
        let _ = writeln!(text, "  {chain} masquerades");
    }
    text
}

fn rows(report: &Report) -> String {
    let zone = report
        .common
        .network
        .as_ref()
        .map(|n| n.availability_zone.as_str());
    let mut cells =
        vec![["ROUTE TABLE", "TAG", "ZONE", "BEFORE → AFTER", "RESULT"].map(str::to_owned)];
    for row in &report.common.rows {
        cells.push([
            row.table.id.to_string(),
            format!("{}={}", report.common.owner_tag, row.table.owner),
            zone.unwrap_or_default().to_owned(),
            route(row, after(report, row)),
            WORDS.result(&row.outcome),
        ]);
    }
    align(&cells)
}

/// What came of a claim that did not fail, on one line.
pub fn summary(report: &Report) -> String {
    let count = |wanted: fn(&Outcome) -> bool| {
        report
            .common
            .rows
            .iter()
            .filter(|row| wanted(&row.outcome))
            .count()
    };
    let kept = count(|o| *o == Outcome::Kept);
    if let Some(aside) = report.aside {
        format!("{aside}: nothing is claimed")
    } else if report.common.rows.is_empty() {
        "nothing to do: no route table to claim".to_owned()
    } else if report.common.dry_run {
        let planned = count(|o| *o == Outcome::Planned);
        format!("dry run: {planned} to claim, {kept} lead here already; nothing was changed")
    } else if kept == report.common.rows.len() {
        format!("nothing to do: {kept} of {kept} route tables lead here already")
    } else {
        let claimed = count(|o| *o == Outcome::Done);
        let superseded = count(|o| *o == Outcome::Overtaken);
        let mut text = format!("done: {claimed} claimed");
        if kept > 0 {
            let _ = write!(text, ", {kept} led here already");
        }
        if superseded > 0 {
            let _ = write!(text, ", {superseded} claimed by another NAT right after");
        }
        text
    }
}
