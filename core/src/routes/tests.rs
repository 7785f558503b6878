//! The plan by table, and as properties over any set of tables.

use proptest::prelude::*;

use super::*;
use crate::ids::Region;

const HERE: &str = "eni-00000000000000001";
const ELSEWHERE: &str = "eni-00000000000000002";

fn nat() -> Nat {
    Nat {
        instance: "i-00000000000000001".parse().unwrap(),
        interface: HERE.parse().unwrap(),
        subnet: "subnet-00000000000000001".parse().unwrap(),
        vpc: "vpc-00000000000000001".parse().unwrap(),
        zone: "eu-central-1a".parse().unwrap(),
    }
}

fn subnet_table() -> TableId {
    "rtb-000000000000000ff".parse().unwrap()
}

fn planned(tables: Vec<Table>) -> Vec<Step> {
    plan(
        tables,
        &nat(),
        Some(&subnet_table()),
        false,
        &Answers::ByTheInterface,
    )
}

pub(super) fn table(n: u32, owner: &str, default_route: Option<DefaultRoute>) -> Table {
    Table {
        id: format!("rtb-{n:017x}").parse().unwrap(),
        vpc: nat().vpc,
        owner: owner.to_owned(),
        main: false,
        subnets: Vec::new(),
        default_route,
        larger_parts: Vec::new(),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it stands for a table's field")]
fn to(target: Target) -> Option<DefaultRoute> {
    Some(DefaultRoute {
        target,
        blackhole: false,
        propagated: false,
    })
}

fn interface(id: &str) -> Target {
    Target::Instance {
        instance: None,
        interface: Some(id.parse().unwrap()),
    }
}

fn action_for(table: Table) -> Action {
    let mut steps = planned(vec![table]);
    assert_eq!(steps.len(), 1);
    steps.remove(0).action
}

#[test]
fn each_default_route_gets_its_action() {
    let by_instance = |id: &str| Target::Instance {
        instance: Some(id.parse().unwrap()),
        interface: None,
    };
    for (default_route, action) in [
        (None, Action::Create),
        (to(interface(ELSEWHERE)), Action::Replace),
        (to(interface(HERE)), Action::Keep),
        (to(by_instance("i-00000000000000001")), Action::Keep),
        (to(by_instance("i-00000000000000002")), Action::Replace),
        (to(Target::Other("nat-0123".into())), Action::Replace),
        (
            to(Target::InternetGateway("igw-1".into())),
            Action::Refuse(Refusal::InternetGateway("igw-1".into())),
        ),
        (
            to(Target::Endpoint("vpce-1".into())),
            Action::Refuse(Refusal::Endpoint("vpce-1".into())),
        ),
    ] {
        let case = format!("{default_route:?}");
        assert_eq!(action_for(table(1, ANY, default_route)), action, "{case}");
    }
}

#[test]
fn the_interface_decides_when_both_ids_are_shown() {
    let second_interface = Target::Instance {
        instance: Some(nat().instance),
        interface: Some(ELSEWHERE.parse().unwrap()),
    };
    assert_eq!(
        action_for(table(1, ANY, to(second_interface))),
        Action::Replace
    );
}

#[test]
fn a_blackhole_that_points_here_is_set_again() {
    let mut route = to(interface(HERE)).unwrap();
    route.blackhole = true;
    assert_eq!(action_for(table(1, ANY, Some(route))), Action::Replace);
}

#[test]
fn the_own_subnets_table_is_refused_even_where_it_points_here() {
    let refused = Action::Refuse(Refusal::OwnSubnet(nat().subnet));
    let mut by_association = table(1, ANY, to(interface(HERE)));
    by_association.subnets.push(nat().subnet);
    assert_eq!(action_for(by_association), refused);

    let by_id = table(0xff, ANY, None);
    assert_eq!(action_for(by_id), refused);

    let mut main = table(2, ANY, None);
    main.main = true;
    assert_eq!(action_for(main.clone()), Action::Create);
    assert_eq!(
        plan(vec![main], &nat(), None, false, &Answers::ByTheInterface)[0].action,
        refused
    );
}

#[test]
fn a_static_route_is_made_beside_a_propagated_one() {
    let mut route = to(Target::Other("vgw-1".into())).unwrap();
    route.propagated = true;
    assert_eq!(action_for(table(1, ANY, Some(route))), Action::Create);
}

#[test]
fn a_firewalls_endpoint_is_replaced_where_that_is_asked_for() {
    let endpoint = table(1, ANY, to(Target::Endpoint("vpce-1".into())));
    let steps = plan(
        vec![endpoint],
        &nat(),
        Some(&subnet_table()),
        true,
        &Answers::ByTheInterface,
    );
    assert_eq!(steps[0].action, Action::Replace);
}

#[test]
fn tags_that_name_nobody_are_told_of() {
    let region: Region = "us-east-1".parse().unwrap();
    for (owner, names) in [
        (ANY, true),
        ("us-east-1a", true),
        ("us-east-1-bos-1a", true),
        ("us-east-1-wl1-bos-wlz-1", true),
        ("", false),
        ("Any", false),
        ("any ", false),
        ("us-east-1a ", false),
        ("us-east-1", false),
        ("us-east-10a", false),
        ("us-west-2a", false),
        ("use1-az1", false),
    ] {
        let told = warnings(&[table(1, owner, None)], &[], "NATAZ", &region);
        assert_eq!(told.is_empty(), names, "{owner:?}");
    }
    let [told] = &warnings(&[table(1, "Any", None)], &[], "NATAZ", &region)[..] else {
        panic!("not told of")
    };
    assert!(
        told.starts_with("rtb-00000000000000001 is tagged NATAZ=Any, "),
        "{told}"
    );
}

#[test]
fn routes_that_win_over_the_default_route_are_told_of() {
    let region: Region = "us-east-1".parse().unwrap();
    let mut half = table(1, ANY, None);
    let to = Target::Other("tgw-1".into());
    half.larger_parts = vec![("0.0.0.0/1".parse().unwrap(), to)];
    let told = warnings(&[], &planned(vec![half.clone()]), "NATAZ", &region);
    assert!(
        told[0].ends_with("default route: 0.0.0.0/1 → tgw-1"),
        "{told:?}"
    );
    half.vpc = "vpc-00000000000000002".parse().unwrap();
    assert!(warnings(&[], &planned(vec![half]), "NATAZ", &region).is_empty());
}

#[test]
fn own_zone_comes_first() {
    let tables = vec![
        table(1, ANY, None),
        table(3, "eu-central-1a", None),
        table(2, "eu-central-1a", None),
    ];
    let order: Vec<String> = planned(tables)
        .iter()
        .map(|step| step.table.id.to_string())
        .collect();
    assert_eq!(
        order,
        [2, 3, 1].map(|n| format!("rtb-{n:017x}")),
        "own zone, then any, each by ID"
    );
}

fn any_route() -> impl Strategy<Value = Option<DefaultRoute>> {
    let target = prop_oneof![
        (any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(instance, own)| {
            Target::Instance {
                instance: instance
                    .map(|own| format!("i-{:017x}", 2 - u8::from(own)).parse().unwrap()),
                interface: own.map(|own| if own { HERE } else { ELSEWHERE }.parse().unwrap()),
            }
        }),
        Just(Target::InternetGateway("igw-1".into())),
        Just(Target::Endpoint("vpce-1".into())),
        Just(Target::Other("nat-1".into())),
    ];
    let route = (target, any::<bool>(), any::<bool>());
    proptest::option::of(
        route.prop_map(|(target, blackhole, propagated)| DefaultRoute {
            target,
            blackhole,
            propagated,
        }),
    )
}

fn any_table(n: u32) -> impl Strategy<Value = Table> {
    (
        prop_oneof![Just(ANY), Just("eu-central-1a"), Just("eu-central-1b")],
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any_route(),
    )
        .prop_map(move |(owner, own_vpc, own_subnet, main, default_route)| {
            let mut table = table(n, owner, default_route);
            if !own_vpc {
                table.vpc = "vpc-00000000000000002".parse().unwrap();
            }
            if own_subnet {
                table.subnets.push(nat().subnet);
            }
            table.main = main;
            table
        })
}

fn any_tables() -> impl Strategy<Value = Vec<Table>> {
    // IDs from 0xf8 on, so that the own subnet's table (0xff) is sometimes among them.
    (0..16_u32).prop_flat_map(|count| (0..count).map(|n| any_table(0xf8 + n)).collect::<Vec<_>>())
}

fn apply(step: Step) -> Table {
    let mut table = step.table;
    if matches!(step.action, Action::Create | Action::Replace) {
        table.default_route = to(Target::Instance {
            instance: Some(nat().instance),
            interface: Some(nat().interface),
        });
    }
    table
}

proptest! {
    #[test]
    fn no_forbidden_table_is_ever_touched(tables in any_tables(), explicit: bool) {
        let nat = nat();
        let subnet_table = explicit.then(subnet_table);
        let count = tables.len();
        let steps = plan(tables, &nat, subnet_table.as_ref(), false, &Answers::ByTheInterface);
        prop_assert_eq!(steps.len(), count);
        for Step { table, action } in steps {
            if !matches!(action, Action::Create | Action::Replace) {
                continue;
            }
            // Both would cut off the NAT itself; another VPC is not ours.
            prop_assert_eq!(&table.vpc, &nat.vpc);
            prop_assert!(!table.subnets.contains(&nat.subnet));
            prop_assert!(subnet_table.as_ref() != Some(&table.id));
            prop_assert!(subnet_table.is_some() || !table.main);
            let leads_out = matches!(
                table.default_route,
                Some(DefaultRoute {
                    target: Target::InternetGateway(_) | Target::Endpoint(_),
                    ..
                })
            );
            prop_assert!(!leads_out);
            prop_assert!(table.owner == ANY || table.owner == nat.zone.as_str());
        }
    }

    #[test]
    fn planning_again_after_applying_changes_nothing(tables in any_tables()) {
        let applied: Vec<Table> = planned(tables).into_iter().map(apply).collect();
        for step in planned(applied) {
            prop_assert!(matches!(step.action, Action::Keep | Action::Refuse(_)), "{:?}", step);
        }
    }
}
