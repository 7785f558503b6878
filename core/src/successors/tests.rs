//! Who gets which table, by example and by property.

use proptest::prelude::*;

use super::*;
use crate::routes::{DefaultRoute, Target};

const HERE: u32 = 0;

pub(crate) fn nat() -> Nat {
    Nat {
        instance: instance(HERE),
        interface: interface(HERE),
        subnet: "subnet-00000000".parse().unwrap(),
        vpc: "vpc-00000000".parse().unwrap(),
        zone: zone("a"),
    }
}

fn instance(n: u32) -> InstanceId {
    format!("i-{n:08x}").parse().unwrap()
}

fn interface(n: u32) -> InterfaceId {
    format!("eni-{n:08x}").parse().unwrap()
}

fn zone(letter: &str) -> Zone {
    format!("us-east-1{letter}").parse().unwrap()
}

pub(crate) fn peer(n: u32, letter: &str) -> Candidate {
    Candidate {
        hop: NextHop::Instance {
            instance: instance(n),
            interface: interface(n),
        },
        zone: Some(zone(letter)),
        subnet: Some(format!("subnet-{n:08x}").parse().unwrap()),
        uses_main_table: false,
        trouble: None,
    }
}

fn gateway(n: u32, letter: Option<&str>) -> Candidate {
    Candidate {
        hop: NextHop::NatGateway(format!("nat-{n:08x}").parse().unwrap()),
        zone: letter.map(zone),
        subnet: Some(format!("subnet-{n:08x}").parse().unwrap()),
        uses_main_table: false,
        trouble: None,
    }
}

/// Held by the instance of that number.
pub(crate) fn table(n: u32, owner: &str, holder: u32) -> Table {
    Table {
        id: format!("rtb-{n:08x}").parse().unwrap(),
        vpc: nat().vpc,
        owner: owner.to_owned(),
        main: false,
        subnets: Vec::new(),
        default_route: Some(DefaultRoute {
            target: Target::Instance {
                instance: Some(instance(holder)),
                interface: Some(interface(holder)),
            },
            blackhole: false,
            propagated: false,
        }),
        larger_parts: Vec::new(),
    }
}

fn chosen(tables: &[Table], candidates: &[Candidate]) -> Vec<Option<String>> {
    let assigned = assign(tables, &nat(), candidates).into_iter();
    assigned
        .map(|(_, to)| to.map(|to| to.hop.to_string()))
        .collect()
}

fn only(table: Table, candidates: &[Candidate]) -> Option<String> {
    let [to] = <[_; 1]>::try_from(chosen(&[table], candidates)).unwrap();
    to
}

#[test]
fn the_tables_zone_comes_first_then_instances_then_gateways() {
    let all = [
        gateway(1, Some("b")),
        gateway(2, Some("a")),
        peer(3, "b"),
        peer(4, "a"),
    ];
    for (owner, order) in [
        ("us-east-1a", [3, 2, 1, 0]),
        ("us-east-1b", [2, 3, 0, 1]),
        (ANY, [3, 2, 1, 0]),
    ] {
        let mut left = all.to_vec();
        for best in order {
            let wanted = &all[best].hop;
            assert_eq!(
                only(table(1, owner, HERE), &left),
                Some(wanted.to_string()),
                "{owner}"
            );
            left.retain(|candidate| candidate.hop != *wanted);
        }
        assert_eq!(only(table(1, owner, HERE), &left), None);
    }
}

#[test]
fn nobody_who_is_in_trouble_or_uses_the_table_himself() {
    let mut ill = peer(1, "a");
    ill.trouble = Some("it is ill".to_owned());
    let neighbour = peer(2, "a");
    let mut used = table(1, ANY, HERE);
    used.subnets.extend(neighbour.subnet.clone());
    assert_eq!(only(used.clone(), &[ill.clone(), neighbour.clone()]), None);
    let far = peer(3, "b");
    assert_eq!(
        only(used, &[ill.clone(), neighbour, far.clone()]),
        Some(far.hop.to_string())
    );
    assert!(nobody(&[ill]).contains("i-00000001/eni-00000001: it is ill"));
}

#[test]
fn nobody_whose_subnet_the_main_table_serves_gets_that() {
    let mut main = table(1, ANY, HERE);
    main.main = true;
    let mut neighbour = peer(1, "a");
    assert!(only(main.clone(), &[neighbour.clone()]).is_some());
    neighbour.uses_main_table = true;
    assert_eq!(only(main, &[neighbour.clone()]), None);
    assert!(only(table(1, ANY, HERE), &[neighbour]).is_some());
}

#[test]
fn one_that_stands_in_no_subnet_gets_the_table_of_any() {
    let mut main = table(1, ANY, HERE);
    main.main = true;
    let mut regional = gateway(1, None);
    regional.subnet = None;
    assert!(only(main, &[regional]).is_some());
}

#[test]
fn what_leads_elsewhere_stays() {
    assert!(chosen(&[table(1, ANY, 7)], &[peer(1, "a")]).is_empty());
}

proptest! {
    /// Each table that leads here goes somewhere, none to more than its share among equals.
    #[test]
    fn equals_share(tables in 0_u32..40, equals in 1_u32..6, held in 0_u32..6) {
        let candidates: Vec<Candidate> = (1..=equals).map(|n| peer(n, "b")).collect();
        let mut all: Vec<Table> = (0..tables).map(|n| table(n, ANY, HERE)).collect();
        // The first of them has some of its own.
        all.extend((0..held).map(|n| table(100 + n, ANY, 1)));
        let chosen = chosen(&all, &candidates);
        prop_assert_eq!(chosen.len(), tables as usize);
        let loads: Vec<u32> = candidates.iter().enumerate().map(|(n, candidate)| {
            let name = Some(candidate.hop.to_string());
            let got = chosen.iter().filter(|to| **to == name).count();
            u32::try_from(got).unwrap() + if n == 0 { held } else { 0 }
        }).collect();
        prop_assert_eq!(loads.iter().sum::<u32>(), tables + held);
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        prop_assert!(most - least <= 1.max(held), "{:?}", loads);
        // Who has less gets the next one.
        prop_assert!(loads[1..].iter().all(|load| most - load <= 1 || *most == held), "{:?}", loads);
    }
}
