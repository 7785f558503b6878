//! nftables as far as hanat reads and writes it: tables, chains, rules, expressions. No I/O.
//! The table that makes this instance a NAT is composed here.
//!
//! Numbers are the kernel's: `linux/netfilter.h`, `linux/netfilter_ipv4.h` and
//! `linux/netfilter/nf_tables.h`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_bindings::nftables::{CmpOps, MetaKeys, PayloadBase};

/// IPv4 and IPv6 together.
pub const FAMILY_INET: u8 = 1;
/// IPv4.
pub const FAMILY_IPV4: u8 = 2;

/// Where packets on their way through pass, and where they leave.
pub const HOOK_FORWARD: u32 = 2;
pub const HOOK_POSTROUTING: u32 = 4;

const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_SOURCE_NAT: i32 = 100;

/// What "dormant" is among a table's flags: it is there and does nothing.
const DORMANT: u32 = 1;

/// Name of the table that is ours, in the family of IPv4.
const OWN_TABLE: &str = "hanat";

/// RFC 3927, section 7: not to be forwarded, whoever asks. Behind it are this instance's own
/// metadata and credentials, which a network that routes through the NAT must not reach.
const LINK_LOCAL: &str = "169.254.0.0/16";

/// Everything that is loaded, as seen at one moment.
#[derive(Debug, Default)]
pub struct Ruleset {
    /// In the kernel's order.
    pub tables: Vec<Table>,
}

/// A table; two are equal when they do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Such as `FAMILY_IPV4`.
    pub family: u8,
    /// Unique in the family.
    pub name: String,
    /// The kernel's bits.
    pub flags: u32,
    /// In the kernel's order.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Unique in the table.
    pub name: String,
    /// What makes packets come here by themselves; none where only rules lead here.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// What a base chain hooks into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// "filter", "nat" or "route".
    pub kind: String,
    /// Such as `HOOK_FORWARD`.
    pub hook: u32,
    /// Lower ones come first.
    pub priority: i32,
    /// Whether the policy drops what no rule decides on.
    pub drops: bool,
}

/// A rule: each expression works on what the ones before it loaded.
pub type Rule = Vec<Expr>;

/// An expression, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads what is known of the packet, such as its interfaces.
    Meta(u32),
    /// Loads bytes of the packet.
    Payload { base: u32, offset: u32, len: u32 },
    /// Keeps these bits of what was loaded.
    Mask(Vec<u8>),
    /// Goes on only if what was loaded compares so.
    Cmp { op: u32, value: Vec<u8> },
    /// Loads a constant.
    Value(Vec<u8>),
    /// Counts packets and bytes.
    Counter,
    /// Decides.
    Verdict(Verdict),
    /// Writes what was loaded as the TCP option for the maximum segment size, if that is less.
    SetMaxSegment,
    /// Source NAT to the address of the interface, with the kernel's bits for the ports.
    Masquerade { flags: u32 },
    /// Source NAT to a given address.
    SourceNat,
    /// Drops and says so.
    Reject,
    /// A target of iptables, by its name.
    Target(String),
    /// Does what decides nothing, such as writing to the log.
    Aside,
    /// Anything else, by its name: it may or may not let the rule go on.
    Other(String),
}

/// What a rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// The kernel's code.
    Other(u32),
}

impl Ruleset {
    /// Our table, if it is there.
    pub fn own(&self) -> Option<&Table> {
        self.tables.iter().find(|table| table.is_own())
    }

    /// The tables that IPv4 packets pass.
    pub fn active(&self) -> impl Iterator<Item = &Table> {
        let sees_ipv4 = |table: &&Table| matches!(table.family, FAMILY_INET | FAMILY_IPV4);
        let tables = self.tables.iter().filter(sees_ipv4);
        tables.filter(|table| table.flags & DORMANT == 0)
    }

    /// Those that are not ours.
    pub fn foreign(&self) -> impl Iterator<Item = &Table> {
        self.active().filter(|table| !table.is_own())
    }
}

impl Table {
    fn is_own(&self) -> bool {
        self.family == FAMILY_IPV4 && self.name == OWN_TABLE
    }

    /// The chain of that name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The table that makes this instance a NAT.
    ///
    /// `interface` is where packets leave to the Internet, `address` is its own, `vpc` are all of the
    /// VPC's blocks, `sources` whose packets are masqueraded (none: everybody's), `max_segment` is
    /// in bytes.
    pub fn own_for(
        interface: &str,
        address: Ipv4Addr,
        vpc: &[Ipv4Net],
        sources: &[Ipv4Net],
        max_segment: u16,
    ) -> Self {
        // In whatever order they are named, the rules are the same ones.
        let vpc: BTreeSet<&Ipv4Net> = vpc.iter().collect();
        // The instance's own connections need no other address, and those that were open before
        // these rules were break if their ports change: with the rules the kernel begins to track
        // connections, and takes each for a new one.
        let mut postrouting = vec![
            returning(leaves_not_by(interface)),
            returning(source(address.into())),
        ];
        postrouting.extend(vpc.into_iter().map(|block| returning(destination(*block))));
        if sources.is_empty() {
            postrouting.push(masquerading(Vec::new()));
        } else {
            postrouting.extend(sources.iter().map(|block| masquerading(source(*block))));
        }
        // A constant that is well-formed.
        let link_local = LINK_LOCAL.parse().unwrap_or_default();
        let mut dropping = destination(link_local);
        dropping.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
        let mut clamping = opens_tcp();
        clamping.extend([
            Expr::Value(max_segment.to_be_bytes().into()),
            Expr::SetMaxSegment,
        ]);
        Self {
            family: FAMILY_IPV4,
            name: OWN_TABLE.into(),
            flags: 0,
            chains: vec![
                Chain {
                    name: "postrouting".into(),
                    base: Some(Base {
                        kind: "nat".into(),
                        hook: HOOK_POSTROUTING,
                        priority: PRIORITY_SOURCE_NAT,
                        drops: false,
                    }),
                    rules: postrouting,
                },
                Chain {
                    name: "forward".into(),
                    base: Some(Base {
                        kind: "filter".into(),
                        hook: HOOK_FORWARD,
                        priority: PRIORITY_MANGLE,
                        drops: false,
                    }),
                    rules: vec![dropping, clamping],
                },
            ],
        }
    }
}

fn returning(mut rule: Rule) -> Rule {
    rule.push(Expr::Verdict(Verdict::Return));
    rule
}

/// The counter counts connections: a NAT chain sees only the first packet of each.
fn masquerading(mut rule: Rule) -> Rule {
    // No flags: the kernel keeps a client's port where it is free, and so one outside port for all
    // destinations (RFC 4787, REQ-1, "endpoint-independent mapping"), and the same one when a
    // connection that it has forgotten goes on.
    rule.extend([Expr::Counter, Expr::Masquerade { flags: 0 }]);
    rule
}

fn leaves_not_by(interface: &str) -> Rule {
    // The kernel compares 16 bytes, IFNAMSIZ.
    let mut name = interface.as_bytes().to_vec();
    name.resize(16, 0);
    vec![
        Expr::Meta(MetaKeys::Oifname as u32),
        Expr::Cmp {
            op: CmpOps::Neq as u32,
            value: name,
        },
    ]
}

fn source(block: Ipv4Net) -> Rule {
    address(12, block)
}

fn destination(block: Ipv4Net) -> Rule {
    address(16, block)
}

/// An address at that offset of the IPv4 header (RFC 791).
fn address(offset: u32, block: Ipv4Net) -> Rule {
    let mut rule = vec![Expr::Payload {
        base: PayloadBase::NetworkHeader as u32,
        offset,
        len: 4,
    }];
    if block.prefix_len() < 32 {
        rule.push(Expr::Mask(block.netmask().octets().into()));
    }
    rule.push(Expr::Cmp {
        op: CmpOps::Eq as u32,
        value: block.network().octets().into(),
    });
    rule
}

/// The first packet of a TCP connection, in either direction: SYN set, RST not, in the 14th byte
/// of the header (RFC 9293).
fn opens_tcp() -> Rule {
    const TCP: u8 = 6;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    let eq = CmpOps::Eq as u32;
    vec![
        Expr::Meta(MetaKeys::L4Proto as u32),
        Expr::Cmp {
            op: eq,
            value: vec![TCP],
        },
        Expr::Payload {
            base: PayloadBase::TransportHeader as u32,
            offset: 13,
            len: 1,
        },
        Expr::Mask(vec![SYN | RST]),
        Expr::Cmp {
            op: eq,
            value: vec![SYN],
        },
    ]
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            FAMILY_INET => "inet",
            _ => "ip",
        };
        write!(f, "{family} {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_for(vpc: &[&str], sources: &[&str]) -> Table {
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (vpc, sources): (Vec<_>, Vec<_>) = (blocks(vpc), blocks(sources));
        Table::own_for("ens5", Ipv4Addr::new(10, 0, 0, 4), &vpc, &sources, 1460)
    }

    #[test]
    fn every_block_of_the_vpc_is_exempt() {
        let table = own_for(&["10.0.0.0/16", "100.64.0.0/16", "10.9.9.9/32"], &[]);
        let rules = &table.chains[0].rules;
        assert_eq!(rules.len(), 6);
        let return_ = Expr::Verdict(Verdict::Return);
        assert!(rules[..5].iter().all(|rule| rule.last() == Some(&return_)));
        // A mask of 32 bits would be no mask.
        assert!(!rules[3].iter().any(|expr| matches!(expr, Expr::Mask(_))));
        assert!(matches!(
            rules[5][..],
            [Expr::Counter, Expr::Masquerade { flags: 0 }]
        ));
    }

    #[test]
    fn sources_each_have_a_rule() {
        let table = own_for(&["10.0.0.0/16"], &["10.0.0.0/16", "10.1.0.0/16"]);
        let masquerading: Vec<&Rule> = table.chains[0].rules[3..].iter().collect();
        assert_eq!(masquerading.len(), 2);
        for rule in masquerading {
            assert!(
                matches!(rule[0], Expr::Payload { offset: 12, .. }),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn whatever_differs_makes_another_table() {
        let table = own_for(&["10.0.0.0/16"], &[]);
        assert_eq!(table, own_for(&["10.0.0.0/16"], &[]));
        let blocks = ["10.0.0.0/16", "10.1.0.0/16"];
        assert_eq!(own_for(&blocks, &[]), own_for(&[blocks[1], blocks[0]], &[]));
        assert_ne!(table, own_for(&["10.0.0.0/17"], &[]));
        assert_ne!(table, own_for(&["10.0.0.0/16"], &["10.0.0.0/16"]));
        let mut dormant = table.clone();
        dormant.flags = DORMANT;
        assert_ne!(table, dormant);
    }

    #[test]
    fn tables_that_do_nothing_are_left_out() {
        let mut ruleset = Ruleset::default();
        for (family, name, flags) in [
            (FAMILY_IPV4, "hanat", 0),
            (FAMILY_INET, "hanat", 0),
            (FAMILY_IPV4, "asleep", DORMANT),
            (10, "ipv6", 0),
        ] {
            ruleset.tables.push(Table {
                family,
                name: name.into(),
                flags,
                chains: Vec::new(),
            });
        }
        let foreign: Vec<String> = ruleset.foreign().map(ToString::to_string).collect();
        assert_eq!(foreign, ["inet hanat"]);
        assert_eq!(ruleset.own().unwrap().to_string(), "ip hanat");
    }
}
