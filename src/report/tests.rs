//! What a table's last read makes of its outcome, and what all outcomes make of the run.

use super::*;
use crate::routes::Target;

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
    Some(DefaultRoute { target, blackhole })
}

fn showing(default_route: Option<DefaultRoute>) -> Table {
    Table {
        id: "rtb-00000000000000001".parse().unwrap(),
        vpc: nat().vpc,
        owner: "any".into(),
        main: false,
        subnets: Vec::new(),
        default_route,
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
    let mut row = row(Action::Replace, Outcome::Accepted);
    for read in reads {
        row.settle(Some(&showing(read.clone())), &nat());
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
fn another_target_counts_when_seen_twice_in_a_row() {
    assert_eq!(settled(&[to(3, false)]), Outcome::Accepted);
    assert_eq!(settled(&[to(3, false), to(3, false)]), Outcome::Superseded);
    let gateway = Some(DefaultRoute {
        target: Target::InternetGateway("igw-1".into()),
        blackhole: false,
    });
    let lost = settled(&[gateway.clone(), gateway]);
    assert!(matches!(lost, Outcome::Failed(_)), "only a NAT takes over");
    let in_between = [to(3, false), to(2, false), to(3, false)];
    assert_eq!(settled(&in_between), Outcome::Accepted);
}

#[test]
fn a_table_that_is_gone_is_lost_when_seen_twice_in_a_row() {
    let mut row = row(Action::Replace, Outcome::Accepted);
    row.settle(None, &nat());
    row.settle(Some(&showing(to(2, false))), &nat());
    row.settle(None, &nat());
    assert_eq!(row.outcome, Outcome::Accepted);
    row.settle(None, &nat());
    assert!(matches!(row.outcome, Outcome::Failed(_)));
}

#[test]
fn exit_codes_follow_the_rows() {
    let refused = || row(Action::Keep, Outcome::Refused("why".into()));
    let claimed = || row(Action::Replace, Outcome::Claimed);
    for (rows, dry_run, code) in [
        (vec![], false, exit::DONE),
        (vec![claimed()], false, exit::DONE),
        (vec![claimed(), refused()], false, exit::PARTIAL),
        (vec![refused()], false, exit::FAILED),
        (
            vec![row(Action::Create, Outcome::Planned)],
            true,
            exit::DONE,
        ),
        (
            vec![row(Action::Create, Outcome::Planned)],
            false,
            exit::FAILED,
        ),
        (
            vec![row(Action::Create, Outcome::Accepted)],
            false,
            exit::FAILED,
        ),
    ] {
        let case = format!("{rows:?}");
        let mut report = Report::new("NATAZ", dry_run);
        report.rows = rows;
        report.error = report.verdict().err();
        assert_eq!(report.exit_code(), code, "{case}");
    }
}
