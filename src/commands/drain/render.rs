//! A drain's report on standard output: one readable table, or one JSON document.

use std::fmt::Write;

use hanat_core::successors::Candidate;
use serde_json::{Value, json};

use crate::commands::drain::Report;
use crate::commands::report::{Words, align, place, route};
use hanat_core::change::{Change, Outcome};

/// In the JSON with underscores.
const WORDS: Words = Words {
    done: "handed over",
    overtaken: "taken",
};

/// For programs. docs/drain.md documents the fields.
pub fn json(report: &Report) -> String {
    let document = json!({
        "command": "drain",
        "version": env!("CARGO_PKG_VERSION"),
        "dry_run": report.common.dry_run,
        "instance": report.common.instance,
        "network": report.common.network,
        "owner_tag": report.common.owner_tag,
        "candidates": report.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "tables": report.common.rows.iter().map(|row| table(report, row)).collect::<Vec<_>>(),
        "error": report.common.error.as_ref().map(|error| format!("{error:#}")),
        "exit_code": report.exit_code(),
    });
    format!("{document:#}\n")
}

fn candidate(candidate: &Candidate) -> Value {
    json!({
        "target": candidate.hop.to_string(),
        "availability_zone": candidate.zone,
        "subnet_id": candidate.subnet,
        "healthy": candidate.trouble.is_none(),
        "reason": candidate.trouble,
    })
}

fn table(report: &Report, row: &Change) -> Value {
    json!({
        "route_table_id": row.table.id,
        "tag": row.table.owner,
        "before": row.table.default_route.as_ref().map(ToString::to_string),
        "after": after(report, row),
        "result": WORDS.name(&row.outcome).replace(' ', "_"),
        "reason": row.outcome.reason(),
    })
}

/// The default route as it is now or, in a dry run, as it would be; `None` where there is none.
fn after(report: &Report, row: &Change) -> Option<String> {
    let route = match (&row.outcome, &row.to) {
        (Outcome::Planned, Some(to)) if report.common.dry_run => return Some(to.hop().to_string()),
        (Outcome::Accepted | Outcome::Done | Outcome::Overtaken, _) => row.after.as_ref(),
        // It may not have been read since.
        _ => row.after.as_ref().or(row.table.default_route.as_ref()),
    };
    route.map(ToString::to_string)
}

/// For people.
pub fn text(report: &Report) -> String {
    let mut text = place(&report.common);
    for candidate in &report.candidates {
        let how = candidate.trouble.as_deref().unwrap_or("healthy");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "candidate {candidate}: {how}");
    }
    if !report.common.rows.is_empty() {
        let mut cells = vec![["ROUTE TABLE", "TAG", "BEFORE → AFTER", "RESULT"].map(str::to_owned)];
        cells.extend(report.common.rows.iter().map(|row| cells_of(report, row)));
        text.push_str(&align(&cells));
    }
    if report.common.error.is_none() {
        let _ = writeln!(text, "{}", summary(report));
    }
    text
}

fn cells_of(report: &Report, row: &Change) -> [String; 4] {
    [
        row.table.id.to_string(),
        format!("{}={}", report.common.owner_tag, row.table.owner),
        route(row, after(report, row)),
        WORDS.result(&row.outcome),
    ]
}

fn summary(report: &Report) -> String {
    let count = |wanted: Outcome| {
        report
            .common
            .rows
            .iter()
            .filter(|row| row.outcome == wanted)
            .count()
    };
    let handed_over = count(Outcome::Done);
    if report.common.rows.is_empty() {
        "nothing to do: no tagged route table leads here".to_owned()
    } else if report.common.dry_run {
        let planned = count(Outcome::Planned);
        format!("dry run: {planned} to hand over; nothing was changed")
    } else {
        match count(Outcome::Overtaken) {
            0 => format!("done: {handed_over} handed over"),
            taken => {
                format!("done: {handed_over} handed over, {taken} taken by somebody else first")
            }
        }
    }
}
