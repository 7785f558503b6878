//! The table that makes this instance a NAT: composed here rule by rule, each as nft would make it of
//! what docs/claim.md shows. No I/O.
//!
//! Forwarded packets pass `forward` each, `postrouting` with the first one of a connection, `output`
//! never: what `forward` asks is what forwarding costs.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_bindings::nftables::{CmpOps, CtKeys, MetaKeys, PayloadBase};

use super::ruleset::{
    Base, Chain, Expr, FAMILY_IPV4, HOOK_FORWARD, HOOK_OUTPUT, HOOK_POSTROUTING, OWN_TABLE, Rule,
    Table, Verdict,
};

const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;

/// RFC 3927, section 7: not to be forwarded, whoever asks. Behind it are this instance's own
/// metadata and credentials, which a network that routes through the NAT must not reach.
const LINK_LOCAL: &str = "169.254.0.0/16";

/// IANA's numbers of the protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;

/// Flags in the 14th byte of TCP's header (RFC 9293, 3.1).
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bits of the connection's status and state (`linux/netfilter/nf_conntrack_common.h`,
/// `IPS_ASSURED` and `NF_CT_STATE_INVALID_BIT`).
const ASSURED: u32 = 1 << 2;
const INVALID: u32 = 1 << 0;

/// What the table depends on.
#[derive(Debug)]
pub struct Nat<'a> {
    /// Where packets come in from clients and leave to the Internet.
    pub interface: &'a str,
    /// The instance's own.
    pub addresses: &'a [Ipv4Addr],
    /// All of the VPC's blocks.
    pub vpc: &'a [Ipv4Net],
    /// Whose packets are masqueraded; none: everybody's.
    pub sources: &'a [Ipv4Net],
    /// In bytes.
    pub max_segment: u16,
}

impl Nat<'_> {
    /// The table. In whatever order addresses and blocks are named, it is the same one.
    pub fn table(&self) -> Table {
        Table {
            family: FAMILY_IPV4,
            name: OWN_TABLE.into(),
            flags: 0,
            chains: vec![self.postrouting(), self.forward(), self.output()],
        }
    }

    fn postrouting(&self) -> Chain {
        let mut rules = vec![returning(self.leaves_not_by_it())];
        // The instance's own connections need no other address, and those that were open before
        // these rules were break if their ports change: with the rules the kernel begins to track
        // connections, and takes each for a new one.
        let addresses: BTreeSet<&Ipv4Addr> = self.addresses.iter().collect();
        let addresses = addresses.into_iter();
        rules.extend(addresses.map(|address| returning(source((*address).into()))));
        rules.extend(self.blocks().map(|block| returning(destination(block))));
        if self.sources.is_empty() {
            rules.push(masquerading(Vec::new()));
        } else {
            let sources = self.sources.iter();
            rules.extend(sources.map(|block| masquerading(source(*block))));
        }
        chain(
            "postrouting",
            "nat",
            HOOK_POSTROUTING,
            PRIORITY_SOURCE_NAT,
            rules,
        )
    }

    /// Most packets of most connections end at the first rule. What connection tracking takes for
    /// invalid, or does not track, has no status and goes on to the second; SYN and SYN-ACK always
    /// come before their connection is assured, which takes the handshake's third packet
    /// (`net/netfilter/nf_conntrack_proto_tcp.c`).
    fn forward(&self) -> Chain {
        // A constant that is well-formed.
        let link_local = LINK_LOCAL.parse().unwrap_or_default();
        // What the instance's own containers ask there is theirs to ask.
        let dropped = [destination(link_local), self.comes_by_it()].concat();
        let mut clamping = tcp(SYN | RST, SYN);
        clamping.extend([
            Expr::Value(self.max_segment.to_be_bytes().into()),
            Expr::SetMaxSegment,
        ]);
        let rules = vec![returning(is_assured()), dropping(dropped), clamping];
        chain("forward", "filter", HOOK_FORWARD, PRIORITY_MANGLE, rules)
    }

    /// What this instance's own stack says to the Internet about packets that it knows nothing of:
    /// nothing. They are their clients', and belong to connections that the kernel has forgotten, or
    /// never knew; an answer in a client's name would end what the client can still take up.
    ///
    /// A segment that belongs to no socket is answered with RST, without ACK where it had one (RFC
    /// 9293, 3.10.7.1). A RST that a socket sends has ACK, and so has the refusal of a SYN, which a
    /// server does not send; what other segments without ACK are answered with is invalid to
    /// connection tracking. Datagrams are answered with an ICMP error that quotes their header.
    fn output(&self) -> Chain {
        let mut rules = vec![returning(is_assured()), returning(self.leaves_not_by_it())];
        rules.extend(self.blocks().map(|block| returning(destination(block))));
        rules.push(dropping(tcp(RST | ACK, RST)));
        rules.push(dropping([is_invalid(), tcp(RST, RST)].concat()));
        // A firewall's own refusals quote a packet that was on its way to somewhere else.
        rules.extend(
            self.blocks()
                .map(|block| dropping([is_unreachable(), quoted_destination(block)].concat())),
        );
        chain("output", "filter", HOOK_OUTPUT, PRIORITY_FILTER, rules)
    }

    fn blocks(&self) -> impl Iterator<Item = Ipv4Net> {
        let blocks: BTreeSet<Ipv4Net> = self.vpc.iter().copied().collect();
        blocks.into_iter()
    }

    fn comes_by_it(&self) -> Rule {
        named(MetaKeys::Iifname, CmpOps::Eq, self.interface)
    }

    fn leaves_not_by_it(&self) -> Rule {
        named(MetaKeys::Oifname, CmpOps::Neq, self.interface)
    }
}

fn chain(name: &str, kind: &str, hook: u32, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name: name.into(),
        base: Some(Base {
            kind: kind.into(),
            hook,
            priority,
            drops: false,
        }),
        rules,
    }
}

fn returning(mut rule: Rule) -> Rule {
    rule.push(Expr::Verdict(Verdict::Return));
    rule
}

fn dropping(mut rule: Rule) -> Rule {
    rule.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
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

fn named(key: MetaKeys, op: CmpOps, interface: &str) -> Rule {
    // The kernel compares 16 bytes, IFNAMSIZ.
    let mut name = interface.as_bytes().to_vec();
    name.resize(16, 0);
    vec![Expr::Meta(key as u32), compare(op, name)]
}

fn source(block: Ipv4Net) -> Rule {
    address(PayloadBase::NetworkHeader, 12, block)
}

fn destination(block: Ipv4Net) -> Rule {
    address(PayloadBase::NetworkHeader, 16, block)
}

/// Of the packet whose header an ICMP error quotes behind its own 8 bytes (RFC 792).
fn quoted_destination(block: Ipv4Net) -> Rule {
    address(PayloadBase::TransportHeader, 8 + 16, block)
}

/// An address at that offset of the IPv4 header (RFC 791). Where the block ends between two bytes,
/// no others are loaded, and it takes no mask.
fn address(base: PayloadBase, offset: u32, block: Ipv4Net) -> Rule {
    let network = block.network().octets();
    let whole = block.prefix_len() > 0 && block.prefix_len().is_multiple_of(8);
    let len = if whole { block.prefix_len() / 8 } else { 4 };
    let mut rule = vec![Expr::Payload {
        base: base as u32,
        offset,
        len: len.into(),
    }];
    if !whole {
        rule.push(Expr::Mask(block.netmask().octets().into()));
    }
    let network = network.into_iter().take(len.into()).collect();
    rule.push(compare(CmpOps::Eq, network));
    rule
}

/// Segments in which, of these flags, exactly those are set. They are in the 14th byte of the header
/// (RFC 9293, 3.1).
fn tcp(flags: u8, set: u8) -> Rule {
    let mut rule = protocol(TCP);
    rule.extend([
        Expr::Payload {
            base: PayloadBase::TransportHeader as u32,
            offset: 13,
            len: 1,
        },
        Expr::Mask(vec![flags]),
        compare(CmpOps::Eq, vec![set]),
    ]);
    rule
}

/// ICMP's "destination unreachable" of the code 2, "protocol", or 3, "port" (RFC 792).
fn is_unreachable() -> Rule {
    let mut rule = protocol(ICMP);
    let byte = |offset| Expr::Payload {
        base: PayloadBase::TransportHeader as u32,
        offset,
        len: 1,
    };
    rule.extend([
        byte(0),
        compare(CmpOps::Eq, vec![3]),
        byte(1),
        compare(CmpOps::Gte, vec![2]),
        compare(CmpOps::Lte, vec![3]),
    ]);
    rule
}

fn protocol(number: u8) -> Rule {
    vec![
        Expr::Meta(MetaKeys::L4Proto as u32),
        compare(CmpOps::Eq, vec![number]),
    ]
}

fn is_assured() -> Rule {
    has(CtKeys::Status, ASSURED)
}

fn is_invalid() -> Rule {
    has(CtKeys::State, INVALID)
}

/// What is known of the connection has that bit; never true where there is none.
fn has(key: CtKeys, bit: u32) -> Rule {
    vec![
        Expr::Ct(key as u32),
        Expr::Mask(bit.to_ne_bytes().into()),
        compare(CmpOps::Neq, vec![0; 4]),
    ]
}

fn compare(op: CmpOps, value: Vec<u8>) -> Expr {
    Expr::Cmp {
        op: op as u32,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_for(addresses: &[&str], vpc: &[&str], sources: &[&str]) -> Table {
        let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (vpc, sources): (Vec<_>, Vec<_>) = (blocks(vpc), blocks(sources));
        let nat = Nat {
            interface: "ens5",
            addresses: &addresses,
            vpc: &vpc,
            sources: &sources,
            max_segment: 1460,
        };
        nat.table()
    }

    const ADDRESS: &[&str] = &["10.0.0.4"];
    const BLOCK: &[&str] = &["10.0.0.0/16"];

    fn rules<'a>(table: &'a Table, chain: &str) -> &'a [Rule] {
        let mut chains = table.chains.iter();
        &chains.find(|one| one.name == chain).unwrap().rules
    }

    #[test]
    fn every_address_and_every_block_of_the_vpc_is_exempt() {
        let vpc = ["10.0.0.0/16", "100.64.0.0/14", "10.9.9.9/32"];
        let table = own_for(&["10.0.0.4", "10.0.0.9"], &vpc, &[]);
        let rules = rules(&table, "postrouting");
        assert_eq!(rules.len(), 7);
        let return_ = Expr::Verdict(Verdict::Return);
        assert!(rules[..6].iter().all(|rule| rule.last() == Some(&return_)));
        let loaded = |rule: &Rule| match rule[0] {
            Expr::Payload { offset, len, .. } => (offset, len),
            _ => panic!("{rule:?}"),
        };
        let loads: Vec<_> = rules[1..6].iter().map(loaded).collect();
        assert_eq!(loads, [(12, 4), (12, 4), (16, 2), (16, 4), (16, 4)]);
        // A mask of 16 or of 32 bits would be no mask.
        let masks = |rule: &Rule| rule.iter().any(|expr| matches!(expr, Expr::Mask(_)));
        let masked: Vec<_> = rules.iter().map(masks).collect();
        assert_eq!(masked, [false, false, false, false, false, true, false]);
        assert!(matches!(
            rules[6][..],
            [Expr::Counter, Expr::Masquerade { flags: 0 }]
        ));
    }

    #[test]
    fn sources_each_have_a_rule() {
        let table = own_for(ADDRESS, BLOCK, &["10.0.0.0/16", "10.1.0.0/16"]);
        let masquerading = &rules(&table, "postrouting")[3..];
        assert_eq!(masquerading.len(), 2);
        for rule in masquerading {
            assert!(
                matches!(rule[0], Expr::Payload { offset: 12, .. }),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn everybody_is_a_block_too() {
        let block = "0.0.0.0/0".parse().unwrap();
        let expected = [
            Expr::Payload {
                base: PayloadBase::NetworkHeader as u32,
                offset: 12,
                len: 4,
            },
            Expr::Mask(vec![0; 4]),
            compare(CmpOps::Eq, vec![0; 4]),
        ];
        assert_eq!(source(block), expected);
    }

    #[test]
    fn whatever_differs_makes_another_table() {
        let table = own_for(ADDRESS, BLOCK, &[]);
        assert_eq!(table, own_for(ADDRESS, BLOCK, &[]));
        let blocks = ["10.0.0.0/16", "10.1.0.0/16"];
        let addresses = ["10.0.0.4", "10.0.0.3"];
        assert_eq!(
            own_for(&addresses, &blocks, &[]),
            own_for(&[addresses[1], addresses[0]], &[blocks[1], blocks[0]], &[])
        );
        assert_ne!(table, own_for(ADDRESS, &["10.0.0.0/17"], &[]));
        assert_ne!(table, own_for(ADDRESS, &["10.0.0.0/24"], &[]));
        assert_ne!(table, own_for(ADDRESS, BLOCK, BLOCK));
        assert_ne!(table, own_for(&addresses, BLOCK, &[]));
    }
}
