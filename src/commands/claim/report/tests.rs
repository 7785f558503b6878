//! What all outcomes make of the run.

use hanat_core::routes::{Action, NextHop, Step, Table};

use super::*;

fn row(outcome: Outcome) -> Change {
    let step = Step {
        table: Table {
            id: "rtb-00000000000000001".parse().unwrap(),
            vpc: "vpc-00000000000000001".parse().unwrap(),
            owner: "any".into(),
            main: false,
            subnets: Vec::new(),
            default_route: None,
            larger_parts: Vec::new(),
        },
        action: Action::Create,
    };
    let here = NextHop::Instance {
        instance: "i-00000000000000001".parse().unwrap(),
        interface: "eni-00000000000000001".parse().unwrap(),
    };
    let mut row = Change::claim(step, &here);
    row.outcome = outcome;
    row
}

#[test]
fn exit_codes_follow_the_rows() {
    let refused = || row(Outcome::Refused("why".into()));
    let claimed = || row(Outcome::Done);
    let failed = || row(Outcome::Failed("why".into()));
    let planned = || row(Outcome::Planned);
    let accepted = || row(Outcome::Accepted);
    for (rows, dry_run, code) in [
        (vec![], false, exit::DONE),
        (vec![claimed()], false, exit::DONE),
        (vec![claimed(), refused()], false, exit::REFUSED),
        (vec![refused()], false, exit::REFUSED),
        (vec![claimed(), failed()], false, exit::PARTIAL),
        (vec![claimed(), failed(), refused()], false, exit::PARTIAL),
        (vec![failed(), refused()], false, exit::FAILED),
        (vec![failed()], false, exit::FAILED),
        (vec![planned()], true, exit::DONE),
        (vec![planned(), refused()], true, exit::REFUSED),
        (vec![planned()], false, exit::FAILED),
        (vec![accepted()], false, exit::FAILED),
        (vec![claimed(), accepted()], false, exit::PARTIAL),
    ] {
        let case = format!("{rows:?}");
        let mut report = ready(rows);
        report.common.dry_run = dry_run;
        report.common.error = report.verdict().err();
        assert_eq!(report.exit_code(), code, "{case}");
    }
}

#[test]
fn refused_tables_hide_nothing_else_that_is_wrong() {
    let rows = || vec![row(Outcome::Done), row(Outcome::Refused("why".into()))];
    let spoil: [fn(&mut Report); 3] = [
        |report| report.unanswered = true,
        |report| report.check_is_on = true,
        |report| report.kernel = None,
    ];
    for spoil in spoil {
        let mut report = ready(rows());
        report.common.error = report.verdict().err();
        assert_eq!(report.exit_code(), exit::REFUSED);
        spoil(&mut report);
        assert_eq!(report.exit_code(), exit::FAILED);
    }
}

/// Of an instance that can forward.
fn ready(rows: Vec<Change>) -> Report {
    let mut report = Report::new("NATAZ", false);
    report.common.rows = rows;
    report.kernel = Some(Prepared::default());
    report
}
