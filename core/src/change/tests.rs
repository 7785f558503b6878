//! What reads make of a change.

use super::*;
use crate::routes::Nat;

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

/// Of a table that led to somebody else, by whatever route.
fn claimed_from(before: Option<DefaultRoute>) -> Change {
    let step = Step {
        table: showing(before),
        action: Action::Replace,
    };
    let mut change = Change::claim(step, &nat().next_hop());
    change.outcome = Outcome::Accepted;
    change
}

fn settled(reads: &[Option<DefaultRoute>]) -> Outcome {
    settled_late(reads, reads.len())
}

/// The first so many reads may lag behind the change.
fn settled_late(reads: &[Option<DefaultRoute>], lag: usize) -> Outcome {
    let mut change = claimed_from(to(2, false));
    for (n, read) in reads.iter().enumerate() {
        change.settle(Some(&showing(read.clone())), n < lag);
    }
    change.outcome
}

#[test]
fn a_read_settles_an_accepted_change() {
    assert_eq!(settled(&[to(1, false)]), Outcome::Done);
    assert_eq!(settled(&[to(2, false), to(1, false)]), Outcome::Done);
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
    assert_eq!(settled_late(&[old(), old(), old()], 2), Outcome::Overtaken);
    // Once may be a read from a server that is behind the others.
    assert_eq!(settled_late(&[old()], 0), Outcome::Accepted);
    // Nobody puts back what leads nowhere.
    let mut dead = claimed_from(to(2, true));
    for _ in 0..3 {
        dead.settle(Some(&showing(to(2, true))), false);
    }
    assert_eq!(dead.outcome, Outcome::Accepted);
    // A propagated route comes back by itself.
    let propagated = to(2, false).map(|route| DefaultRoute {
        propagated: true,
        ..route
    });
    let mut vpn = claimed_from(propagated.clone());
    for _ in 0..3 {
        vpn.settle(Some(&showing(propagated.clone())), false);
    }
    assert_eq!(vpn.outcome, Outcome::Accepted);
    let mut none = claimed_from(None);
    for _ in 0..3 {
        none.settle(Some(&showing(None)), false);
    }
    assert_eq!(none.outcome, Outcome::Accepted);
}

#[test]
fn another_target_counts_when_seen_twice_in_a_row() {
    assert_eq!(settled(&[to(3, false)]), Outcome::Accepted);
    assert_eq!(settled(&[to(3, false), to(3, false)]), Outcome::Overtaken);
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
    let mut change = claimed_from(to(2, false));
    change.settle(None, true);
    change.settle(Some(&showing(to(2, false))), true);
    change.settle(None, true);
    assert_eq!(change.outcome, Outcome::Accepted);
    change.settle(None, true);
    assert!(matches!(change.outcome, Outcome::Failed(_)));
}

#[test]
fn what_was_only_planned_is_done_if_a_read_shows_it() {
    let mut change = claimed_from(to(2, false));
    change.outcome = Outcome::Planned;
    for _ in 0..3 {
        change.settle(Some(&showing(to(3, false))), false);
    }
    assert_eq!(change.outcome, Outcome::Planned);
    change.settle(Some(&showing(to(1, false))), false);
    assert_eq!(change.outcome, Outcome::Done);
}

/// Of a table that led to this instance, and is to lead to the second one.
fn handed_over(outcome: Outcome) -> Change {
    let Some(DefaultRoute {
        target: Target::Instance { interface, .. },
        ..
    }) = to(2, false)
    else {
        unreachable!("it is one");
    };
    let next = NextHop::Instance {
        instance: "i-00000000000000002".parse().unwrap(),
        interface: interface.unwrap(),
    };
    let mut change = Change::hand_over(showing(to(1, false)), &nat().next_hop(), Ok(next));
    change.outcome = outcome;
    change
}

#[test]
fn a_table_that_has_to_go_is_gone_once_a_read_shows_it_elsewhere() {
    let shown = |now: Option<Table>, outcome: Outcome| {
        let mut change = handed_over(outcome);
        change.settle(now.as_ref(), true);
        change.outcome
    };
    for before in [Outcome::Planned, Outcome::Accepted] {
        let shown = |now| shown(now, before.clone());
        assert_eq!(shown(Some(showing(to(1, false)))), before);
        assert_eq!(shown(Some(showing(to(2, false)))), Outcome::Done);
        assert_eq!(shown(Some(showing(to(3, false)))), Outcome::Overtaken);
        assert_eq!(shown(Some(showing(to(1, true)))), Outcome::Overtaken);
        assert_eq!(shown(Some(showing(None))), Outcome::Overtaken);
        assert_eq!(shown(None), Outcome::Overtaken);
        let dead = shown(Some(showing(to(2, true))));
        assert!(dead.reason().is_some_and(|why| why.ends_with("gone since")));
    }
}

#[test]
fn what_is_settled_stays_and_where_it_leads_is_read_once() {
    let mut taken = handed_over(Outcome::Overtaken);
    assert!(taken.wants_read());
    taken.settle(Some(&showing(to(3, false))), true);
    assert_eq!(taken.after, to(3, false));
    assert!(!taken.wants_read());
    taken.settle(Some(&showing(to(2, false))), true);
    assert_eq!(
        (taken.outcome, taken.after),
        (Outcome::Overtaken, to(3, false))
    );
}
