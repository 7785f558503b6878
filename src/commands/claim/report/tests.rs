//! What a table's last read makes of its outcome, and what all outcomes make of the run.

use hanat_core::routes::Target;

use super::*;

fn nat() -> Nat {
    Nat {
        instance: "i-00000000000000001".parse().unwrap(),
        interface: "eni-00000000000000001".parse().unwrap(),
        subnet: "subnet-00000000000000001".parse().unwrap(),
        vpc: "vpc-00000000000000001".parse().unwrap(),
        zone: "eu-central-1a".parse().unwrap(),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it stands for a table's field")]
fn to(interface: u8, blackhole: bool) -> Option<DefaultRoute> {
    let target = Target::Instance {
        instance: None,
        interface: Some(format!("eni-{interface:017x}").parse().unwrap()),
    };
    Some(DefaultRoute {
        target,
        blackhole,
        propagated: false,
    })
}

fn showing(default_route: Option<DefaultRoute>) -> Table {
    Table {
        id: "rtb-00000000000000001".parse().unwrap(),
        vpc: nat().vpc,
        owner: "any".into(),
        main: false,
        subnets: Vec::new(),
        default_route,
        larger_parts: Vec::new(),
    }
}

fn row(action: Action, outcome: Outcome) -> Row {
    Row {
        table: showing(to(2, false)),
        action,
        outcome,
        after: None,
        absent: false,
    }
}

fn settled(reads: &[Option<DefaultRoute>]) -> Outcome {
    settled_late(reads, reads.len())
}

/// The first so many reads may lag behind the change.
fn settled_late(reads: &[Option<DefaultRoute>], lag: usize) -> Outcome {
    let mut row = row(Action::Replace, Outcome::Accepted);
    for (n, read) in reads.iter().enumerate() {
        row.settle(Some(&showing(read.clone())), &nat(), n < lag);
    }
    row.outcome
}

#[test]
fn a_read_settles_an_accepted_change() {
    assert_eq!(settled(&[to(1, false)]), Outcome::Claimed);
    assert_eq!(settled(&[to(2, false), to(1, false)]), Outcome::Claimed);
}

#[test]
fn old_state_is_waited_out_however_often_it_is_seen() {
    assert_eq!(settled(&[to(2, false), to(2, false)]), Outcome::Accepted);
    assert_eq!(settled(&[to(1, true)]), Outcome::Accepted);
    assert_eq!(settled(&[None, None]), Outcome::Accepted);
}

#[test]
fn what_was_put_back_is_told_from_a_read_that_lags() {
    let old = || to(2, false);
    assert_eq!(settled_late(&[old(), old(), old()], 2), Outcome::Superseded);
    // Once may be a read from a server that is behind the others.
    assert_eq!(settled_late(&[old()], 0), Outcome::Accepted);
    // Nobody puts back what leads nowhere.
    let mut dead = row(Action::Replace, Outcome::Accepted);
    dead.table.default_route = to(2, true);
    for _ in 0..3 {
        dead.settle(Some(&showing(to(2, true))), &nat(), false);
    }
    assert_eq!(dead.outcome, Outcome::Accepted);
    // A propagated route comes back by itself.
    let mut vpn = row(Action::Create, Outcome::Accepted);
    let propagated = to(2, false).map(|route| DefaultRoute {
        propagated: true,
        ..route
    });
    vpn.table.default_route.clone_from(&propagated);
    for _ in 0..3 {
        vpn.settle(Some(&showing(propagated.clone())), &nat(), false);
    }
    assert_eq!(vpn.outcome, Outcome::Accepted);
    let mut none = row(Action::Create, Outcome::Accepted);
    none.table.default_route = None;
    for _ in 0..3 {
        none.settle(Some(&showing(None)), &nat(), false);
    }
    assert_eq!(none.outcome, Outcome::Accepted);
}

#[test]
fn another_target_counts_when_seen_twice_in_a_row() {
    assert_eq!(settled(&[to(3, false)]), Outcome::Accepted);
    assert_eq!(settled(&[to(3, false), to(3, false)]), Outcome::Superseded);
    let gateway = Some(DefaultRoute {
        target: Target::InternetGateway("igw-1".into()),
        blackhole: false,
        propagated: false,
    });
    let lost = settled(&[gateway.clone(), gateway]);
    assert!(matches!(lost, Outcome::Failed(_)), "only a NAT takes over");
    let in_between = [to(3, false), to(2, false), to(3, false)];
    assert_eq!(settled(&in_between), Outcome::Accepted);
}

#[test]
fn a_table_that_is_gone_is_lost_when_seen_twice_in_a_row() {
    let mut row = row(Action::Replace, Outcome::Accepted);
    row.settle(None, &nat(), true);
    row.settle(Some(&showing(to(2, false))), &nat(), true);
    row.settle(None, &nat(), true);
    assert_eq!(row.outcome, Outcome::Accepted);
    row.settle(None, &nat(), true);
    assert!(matches!(row.outcome, Outcome::Failed(_)));
}

#[test]
fn exit_codes_follow_the_rows() {
    let refused = || row(Action::Keep, Outcome::Refused("why".into()));
    let claimed = || row(Action::Replace, Outcome::Claimed);
    let failed = || row(Action::Replace, Outcome::Failed("why".into()));
    let planned = || row(Action::Create, Outcome::Planned);
    let accepted = || row(Action::Create, Outcome::Accepted);
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
        report.dry_run = dry_run;
        report.error = report.verdict().err();
        assert_eq!(report.exit_code(), code, "{case}");
    }
}

#[test]
fn refused_tables_hide_nothing_else_that_is_wrong() {
    let rows = || {
        vec![
            row(Action::Replace, Outcome::Claimed),
            row(Action::Keep, Outcome::Refused("why".into())),
        ]
    };
    let spoil: [fn(&mut Report); 3] = [
        |report| report.unanswered = true,
        |report| report.check_is_on = true,
        |report| report.kernel = None,
    ];
    for spoil in spoil {
        let mut report = ready(rows());
        report.error = report.verdict().err();
        assert_eq!(report.exit_code(), exit::REFUSED);
        spoil(&mut report);
        assert_eq!(report.exit_code(), exit::FAILED);
    }
}

/// Of an instance that can forward.
fn ready(rows: Vec<Row>) -> Report {
    let mut report = Report::new("NATAZ", false);
    report.rows = rows;
    report.kernel = Some(Prepared::default());
    report
}
