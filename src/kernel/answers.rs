//! Where this host would send the answers to the VPC's clients. They must leave by the interface that
//! routes point at: what leaves by another one is dropped by EC2, or does not get to EC2 at all.
//!
//! All addresses that are in the same prefixes of routes and rules have the same way. So the VPC's
//! blocks are taken apart by these, and the kernel is asked for one address of each part.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Bound::{Excluded, Unbounded};

use anyhow::Result;
use hanat_core::routes::answers::Elsewhere;
use ipnet::{Ipv4Net, Ipv4Subnets};
use netlink_socket2::NetlinkSocket;

use super::link::{self, Link};
use super::routing::{self, Kind, Route, Way};

/// Who answers: nobody in the VPC. RFC 5737's TEST-NET-1; nothing is sent to it.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// All such clients in the VPC's blocks.
pub fn elsewhere(
    socket: &mut NetlinkSocket,
    link: &Link,
    vpc: &[Ipv4Net],
) -> Result<Vec<Elsewhere>> {
    let routes = routing::routes(socket)?;
    let rules = routing::rules(socket)?;
    let of_routes = routes
        .iter()
        .map(|route| (route.prefix, is_for_many(route)));
    let of_rules = rules.into_iter().map(|prefix| (prefix, true));
    let mut lost: BTreeMap<Stray, Vec<Ipv4Net>> = BTreeMap::new();
    for part in parts(vpc, of_routes.chain(of_rules)) {
        let way = routing::way(socket, link.index, OUTSIDE, part.address)?;
        if let Some(stray) = stray(&way, link.index) {
            lost.entry(stray).or_default().extend(part.blocks);
        }
    }
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let links = link::all(socket)?;
    // What a bridge's port sends leaves by the same wire.
    lost.retain(|stray, _| {
        let mut ports = links.iter().filter(|port| port.upper == Some(link.index));
        !ports.any(|port| *stray == Stray::By(port.index))
    });
    let gateway = gateway(&routes, link.index);
    let all = lost.iter().flat_map(|(stray, blocks)| {
        let interface = match stray {
            Stray::By(number) => links.iter().find(|link| link.index == *number),
            Stray::Nowhere => None,
        };
        let blocks = Ipv4Net::aggregate(blocks).into_iter();
        blocks.map(move |block| Elsewhere {
            block,
            interface: interface.map(|other| other.name.clone()),
            mend: mend(block, interface, &link.name, gateway),
        })
    });
    Ok(all.collect())
}

/// Not one of this host's own addresses, nor one that stands for all of a network.
fn is_for_many(route: &Route) -> bool {
    match route.kind {
        Kind::Onward => true,
        Kind::Local => route.prefix.prefix_len() < 32,
        Kind::Broadcast => false,
    }
}

/// Where answers go that do not go by the interface alone.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stray {
    /// By another one, or by that one, too; the kernel's number.
    By(u32),
    /// This host keeps or drops them.
    Nowhere,
}

fn stray(way: &Way, interface: u32) -> Option<Stray> {
    match way {
        Way::By(by) => by
            .iter()
            .find(|by| **by != interface)
            .copied()
            .map(Stray::By),
        Way::Here | Way::Nowhere => Some(Stray::Nowhere),
        // Then there is none to the Internet either, which is for others to find out.
        Way::Unknown => None,
    }
}

fn gateway(routes: &[Route], interface: u32) -> Option<Ipv4Addr> {
    let mut defaults = routes
        .iter()
        .filter(|route| route.prefix.prefix_len() == 0 && route.interface == Some(interface));
    defaults.find_map(|route| route.gateway)
}

/// The rule says where to, so that what comes in for this host's containers is not led away.
fn mend(
    block: Ipv4Net,
    other: Option<&Link>,
    interface: &str,
    gateway: Option<Ipv4Addr>,
) -> String {
    let away = other.map_or("remove the route that keeps them".to_owned(), |other| {
        format!("remove {}", other.name)
    });
    let gateway = gateway.map_or("its gateway".to_owned(), |gateway| gateway.to_string());
    format!(
        "{away}, or let answers leave by {interface} (ip route replace default via {gateway} dev \
         {interface} table 1000 && ip rule add iif {interface} to {block} lookup 1000)"
    )
}

/// Addresses that have the same way.
#[derive(Debug)]
struct Part {
    blocks: Vec<Ipv4Net>,
    /// One of them.
    address: Ipv4Addr,
}

/// The parts of the VPC. Each prefix comes with whether it is for many: one that is not is no part,
/// and stands for no other address.
fn parts(vpc: &[Ipv4Net], prefixes: impl Iterator<Item = (Ipv4Net, bool)>) -> Vec<Part> {
    let vpc: Vec<Ipv4Net> = vpc.iter().map(Ipv4Net::trunc).collect();
    let mut found: BTreeMap<Ipv4Net, bool> = vpc.iter().map(|block| (*block, true)).collect();
    for (prefix, is_for_many) in prefixes {
        let prefix = prefix.trunc();
        if vpc.iter().any(|block| block.contains(&prefix)) {
            *found.entry(prefix).or_default() |= is_for_many;
        }
    }
    let wholes = found.iter().filter(|(_, is_for_many)| **is_for_many);
    wholes
        .filter_map(|(whole, _)| {
            // In this order what is inside of a prefix follows it.
            let inside = found.range((Excluded(whole), Unbounded));
            let inside = inside.take_while(|(prefix, _)| whole.contains(*prefix));
            let (address, _) = *gaps(*whole, inside.clone().map(|(prefix, _)| prefix)).first()?;
            let parts = inside.filter(|(_, is_for_many)| **is_for_many);
            let blocks = gaps(*whole, parts.map(|(prefix, _)| prefix)).into_iter();
            let blocks = blocks.flat_map(|(first, last)| Ipv4Subnets::new(first, last, 0));
            Some(Part {
                blocks: blocks.collect(),
                address,
            })
        })
        .collect()
}

/// From where to where there is nothing of what is inside, which comes in order.
fn gaps<'a>(
    whole: Ipv4Net,
    inside: impl Iterator<Item = &'a Ipv4Net>,
) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mut gaps = Vec::new();
    let mut next = Some(whole.network());
    for prefix in inside {
        let Some(first) = next else {
            break;
        };
        if first < prefix.network()
            && let Some(last) = before(prefix.network())
        {
            gaps.push((first, last));
        }
        next = after(prefix.broadcast()).map(|after| after.max(first));
    }
    if let Some(first) = next
        && first <= whole.broadcast()
    {
        gaps.push((first, whole.broadcast()));
    }
    gaps
}

fn before(address: Ipv4Addr) -> Option<Ipv4Addr> {
    u32::from(address).checked_sub(1).map(Ipv4Addr::from)
}

fn after(address: Ipv4Addr) -> Option<Ipv4Addr> {
    u32::from(address).checked_add(1).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn parts_of(vpc: &[&str], prefixes: &[(&str, bool)]) -> Vec<(String, Vec<String>)> {
        let vpc: Vec<Ipv4Net> = vpc.iter().map(|text| net(text)).collect();
        let prefixes = prefixes.iter().map(|(text, many)| (net(text), *many));
        let parts = parts(&vpc, prefixes).into_iter();
        let texts = |blocks: Vec<Ipv4Net>| blocks.iter().map(ToString::to_string).collect();
        parts
            .map(|part| (part.address.to_string(), texts(part.blocks)))
            .collect()
    }

    #[test]
    fn a_second_interface_is_one_part() {
        let found = parts_of(
            &["10.0.0.0/23"],
            &[
                ("0.0.0.0/0", true),
                ("10.0.0.0/24", true),
                ("10.0.1.0/24", true),
                ("10.0.1.0/32", false),
                ("10.0.1.20/32", false),
                ("10.0.1.255/32", false),
                ("172.17.0.0/16", true),
            ],
        );
        let expected = [("10.0.0.0", "10.0.0.0/24"), ("10.0.1.1", "10.0.1.0/24")];
        let expected = expected.map(|(a, b)| (a.to_owned(), vec![b.to_owned()]));
        // The VPC's block itself is covered by the two.
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_left_of_a_block_is_a_part() {
        let found = parts_of(&["10.0.0.0/22"], &[("10.0.1.0/24", true)]);
        let rest = vec!["10.0.0.0/24".to_owned(), "10.0.2.0/23".to_owned()];
        assert_eq!(found[0], ("10.0.0.0".to_owned(), rest));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_last_address_of_all_is_no_end() {
        let found = parts_of(&["255.255.255.254/31"], &[("255.255.255.255/32", true)]);
        assert_eq!(found.len(), 2);
        let found = parts_of(&["0.0.0.0/31"], &[("0.0.0.0/32", true)]);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn only_the_interface_alone_is_right() {
        for (way, expected) in [
            (Way::By(vec![2]), None),
            (Way::By(vec![2, 2]), None),
            (Way::By(vec![2, 3]), Some(Stray::By(3))),
            (Way::By(vec![3]), Some(Stray::By(3))),
            (Way::Unknown, None),
            (Way::Here, Some(Stray::Nowhere)),
            (Way::Nowhere, Some(Stray::Nowhere)),
        ] {
            assert_eq!(stray(&way, 2), expected, "{way:?}");
        }
    }

    /// Within 10.0.0.0/24, so that they overlap often.
    fn any_prefix() -> impl Strategy<Value = Ipv4Net> {
        (any::<u8>(), 22..=32_u8).prop_map(|(last, length)| {
            Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, last), length).trunc()
        })
    }

    proptest! {
        #[test]
        fn every_address_is_in_the_part_of_its_longest_prefix(
            vpc in vec(any_prefix(), 1..3),
            prefixes in vec((any_prefix(), any::<bool>()), 0..8),
        ) {
            let vpc: Vec<Ipv4Net> = vpc
                .into_iter()
                .filter(|block| block.prefix_len() >= 24)
                .collect();
            let parts = parts(&vpc, prefixes.iter().copied());
            // As routing goes: the prefix that says most of an address.
            let longest = |address: Ipv4Addr, all: bool| {
                let prefixes = prefixes.iter().filter(|(_, many)| *many || all);
                let prefixes = prefixes.map(|(prefix, _)| prefix).chain(&vpc);
                prefixes
                    .filter(|prefix| vpc.iter().any(|block| block.contains(*prefix)))
                    .filter(|prefix| prefix.contains(&address))
                    .max_by_key(|prefix| prefix.prefix_len())
                    .copied()
            };
            let in_blocks = |part: &Part, address: Ipv4Addr| {
                part.blocks.iter().filter(|block| block.contains(&address)).count()
            };
            for part in &parts {
                prop_assert_eq!(in_blocks(part, part.address), 1);
                prop_assert_eq!(longest(part.address, true), longest(part.address, false));
            }
            for last in 0..=255 {
                let address = Ipv4Addr::new(10, 0, 0, last);
                let own: Vec<&Part> = parts
                    .iter()
                    .filter(|part| in_blocks(part, address) > 0)
                    .collect();
                let whole = longest(address, false);
                // All of a prefix may be addresses that are not for many.
                prop_assert!(own.len() <= 1);
                if let Some(part) = own.first() {
                    prop_assert_eq!(longest(part.address, false), whole);
                } else if let Some(whole) = whole {
                    let left = whole.hosts().chain([whole.network(), whole.broadcast()]);
                    for address in left.filter(|address| longest(*address, false) == Some(whole)) {
                        prop_assert!(longest(address, true) != Some(whole));
                    }
                }
            }
        }
    }
}
