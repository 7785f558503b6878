//! nftables as far as hanat reads and writes it: tables, chains, rules, expressions. No I/O.
//!
//! Numbers are the kernel's: `linux/netfilter.h`, `linux/netfilter_ipv4.h` and
//! `linux/netfilter/nf_tables.h`.

use std::collections::HashMap;
use std::fmt;

use super::sets::Set;

/// IPv4 and IPv6 together.
pub const FAMILY_INET: u8 = 1;
/// IPv4.
pub const FAMILY_IPV4: u8 = 2;

/// Where packets come in, where those on their way through pass, where those begin that are the
/// machine's own, and where the last two leave.
pub const HOOK_PREROUTING: u32 = 0;
pub const HOOK_FORWARD: u32 = 2;
pub const HOOK_OUTPUT: u32 = 3;
pub const HOOK_POSTROUTING: u32 = 4;

/// What "dormant" is among a table's flags: it is there and does nothing.
const DORMANT: u32 = 1;

/// Name of the table that is ours, in the family of IPv4.
pub const OWN_TABLE: &str = "hanat";

/// Everything that is loaded, as seen at one moment.
#[derive(Debug, Default)]
pub struct Ruleset {
    /// In the kernel's order.
    pub tables: Vec<Table>,
    /// What their rules look things up in.
    pub sets: Sets,
}

/// By family, table and name; why there is none where one could not be read.
pub type Sets = HashMap<(u8, String, String), Result<Set, String>>;

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
    /// Loads what is known of the packet's connection, such as its state.
    Ct(u32),
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
    /// Only others' rules have what follows.
    Others(Others),
    /// Anything else, by its name: it may or may not let the rule go on.
    Other(String),
}

/// What only the rules of others have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Others {
    /// Does this on that register instead of on the first one.
    On(u32, Box<Expr>),
    /// Loads what is known of one direction of the packet's connection, by the kernel's keys.
    CtOf { key: u32, direction: u8 },
    /// Loads what the routing table says, by the kernel's numbers.
    Fib { result: u32, flags: u32 },
    /// Flips these bits of what was loaded and masked.
    Flip { mask: Vec<u8>, bits: Vec<u8> },
    /// Swaps the order of bytes in numbers of that size.
    Swap(usize),
    /// Goes on only if what was loaded is, or is not, from one value to another.
    Range {
        from: Vec<u8>,
        to: Vec<u8>,
        inverted: bool,
    },
    /// Goes on only if the set has, or has not, what was loaded.
    Lookup { set: String, inverted: bool },
    /// Decides as the map has it for what was loaded.
    VerdictMap(String),
    /// Goes on only below a rate, an amount or a number of connections, or only above.
    Limit { above: bool },
    /// A match of iptables: its name, its revision, and its own structure.
    Match {
        name: String,
        revision: u32,
        info: Vec<u8>,
    },
    /// Writes the packet's mark.
    SetMark,
    /// Writes the connection's mark.
    SetConnectionMark,
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

impl Chain {
    /// Whether packets come here by themselves at one of these hooks.
    pub fn is_on(&self, hooks: &[u32]) -> bool {
        let base = self.base.as_ref();
        base.is_some_and(|base| hooks.contains(&base.hook))
    }
}

impl Table {
    fn is_own(&self) -> bool {
        self.family == FAMILY_IPV4 && self.name == OWN_TABLE
    }
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
