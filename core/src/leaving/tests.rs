//! When tables are handed over, by what is known, and who counts as leaving.

use proptest::prelude::*;

use super::*;
use crate::lifecycle::Aside;
use crate::successors::tests::{nat, peer, table};

const PATIENCE: Duration = Duration::from_mins(4);

fn terminated() -> Notices {
    Notices {
        terminated: true,
        ..Notices::default()
    }
}

/// How long after it began to leave.
fn waits(notices: &Notices, hold: Hold, on_rebalance: bool) -> Duration {
    let began = Instant::now();
    hands_over_at(began, notices, on_rebalance, hold, PATIENCE) - began
}

/// By a hook that was seen to wait when leaving began, and that holds for so long.
fn waits_by_hook(holds: Duration) -> Duration {
    let began = Instant::now();
    let hold = Hold::For(began, began + holds);
    hands_over_at(began, &terminated(), false, hold, PATIENCE) - began
}

#[test]
fn a_replacement_has_its_time_where_the_hook_allows_for_it() {
    assert_eq!(waits(&terminated(), Hold::Asking, false), PATIENCE);
    assert_eq!(waits_by_hook(Duration::from_hours(2)), PATIENCE);
}

#[test]
fn a_part_of_the_hooks_time_is_kept() {
    assert_eq!(
        waits_by_hook(Duration::from_mins(2)),
        Duration::from_secs(90)
    );
    assert_eq!(
        waits_by_hook(Duration::from_secs(40)),
        Duration::from_secs(20)
    );
    assert_eq!(waits_by_hook(Duration::ZERO), Duration::ZERO);
}

#[test]
fn nobody_is_waited_for_where_none_will_come_in_time() {
    assert_eq!(waits(&terminated(), Hold::No, false), Duration::ZERO);
    let interrupted = Notices {
        interruption: r#"{"action": "stop"}"#.parse().ok(),
        ..Notices::default()
    };
    let aside = Notices {
        aside: Some(Aside::Standby),
        ..Notices::default()
    };
    for notices in [interrupted, aside] {
        assert_eq!(waits(&notices, Hold::Asking, false), Duration::ZERO);
    }
}

/// Its group launches another one for it, and no hook says when it goes.
#[test]
fn one_that_leaves_for_a_recommendation_waits() {
    let recommended = Notices {
        rebalance: "2020-10-27T08:22:00Z".parse().ok(),
        ..Notices::default()
    };
    assert_eq!(waits(&recommended, Hold::No, true), PATIENCE);
    let terminated = Notices {
        terminated: true,
        ..recommended
    };
    assert_eq!(waits(&terminated, Hold::No, true), Duration::ZERO);
}

#[test]
fn whoever_gave_a_table_here_gets_none_for_a_while() {
    let began = Instant::now();
    let mut others = Others::default();
    others.remember(&[table(1, "any", 2), table(2, "any", 3)], &nat(), began);
    // The second one gives its table to this instance; the third keeps its own.
    others.remember(&[table(1, "any", 0), table(2, "any", 3)], &nat(), began);
    let in_trouble = |after: Duration| {
        let mut candidates = [peer(2, "b"), peer(3, "b")];
        others.rule_out(&mut candidates, began + after);
        candidates.map(|candidate| candidate.trouble.is_some())
    };
    assert_eq!(in_trouble(Duration::ZERO), [true, false]);
    assert_eq!(in_trouble(LEAVING_TOO), [false, false]);
}

#[test]
fn a_table_that_led_here_all_the_time_rules_nobody_out() {
    let began = Instant::now();
    let mut others = Others::default();
    for _ in 0..3 {
        others.remember(&[table(1, "any", 0)], &nat(), began);
    }
    let mut candidates = [peer(2, "b")];
    others.rule_out(&mut candidates, began);
    assert_eq!(candidates[0].trouble, None);
}

fn looks() -> impl Strategy<Value = Look> {
    prop_oneof![
        4 => Just(Look::Empty),
        1 => Just(Look::HandedOver),
        1 => Just(Look::Waiting(1)),
        1 => Just(Look::Failed),
        1 => Just(Look::GivenUp(Vec::new())),
    ]
}

proptest! {
    /// Whatever looks show, how long they take and how long the machine stands still between them: who
    /// has left saw nothing but that nothing leads here for all of the time to linger, and once more in
    /// a look that began after it.
    #[test]
    fn who_has_left_has_lingered(
        seen in proptest::collection::vec((looks(), 0..3_000_u64, 0..60_000_u64), 1..60),
        linger in 0..10_000_u64,
    ) {
        let linger = Duration::from_millis(linger);
        let mut leaving = Leaving::new(linger);
        let mut now = Instant::now();
        let mut empty_since = None;
        for (look, takes, stands_still) in seen {
            let looked = now;
            now += Duration::from_millis(takes);
            let course = leaving.take_in(&look, looked, now);
            if look == Look::Empty {
                let since = *empty_since.get_or_insert(now);
                prop_assert_eq!(course.has_left, looked >= since + linger);
            } else {
                empty_since = (look == Look::HandedOver).then_some(now);
                prop_assert_eq!(course.has_left, matches!(look, Look::GivenUp(_)));
            }
            prop_assert!(course.next > looked);
            prop_assert!(course.next <= looked + LEFT_INTERVAL);
            now = now.max(course.next) + Duration::from_millis(stands_still);
        }
    }

    /// Nothing keeps one for good that nothing leads to.
    #[test]
    fn who_sees_nothing_else_leaves(linger in 0..600_000_u64, takes in 0..3_000_u64) {
        let linger = Duration::from_millis(linger);
        let mut leaving = Leaving::new(linger);
        let began = Instant::now();
        let mut looked = began;
        loop {
            let ended = looked + Duration::from_millis(takes);
            let course = leaving.take_in(&Look::Empty, looked, ended);
            if course.has_left {
                break;
            }
            prop_assert!(looked - began <= linger + Duration::from_secs(4));
            looked = ended.max(course.next);
        }
    }
}
