//! What the rules of others do to packets that this instance is to forward. No I/O.
//!
//! It follows one packet through their chains: the first one of a connection from the VPC, in and
//! out by the same interface. What a rule asks beyond that (ports, states, sets) is not known
//! here, so such a rule may apply or not.

use ipnet::Ipv4Net;
use netlink_bindings::nftables::{CmpOps, MetaKeys, PayloadBase};

use super::ruleset::{
    Chain, Expr, FAMILY_IPV4, HOOK_FORWARD, HOOK_POSTROUTING, Rule, Table, Verdict,
};

/// Deeper than the kernel lets chains lead to each other (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// As it is on the wire (`linux/if_ether.h`).
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];

/// The packet that is followed.
#[derive(Debug)]
pub struct Packet<'a> {
    /// By which it comes in and goes out.
    pub interface: &'a str,
    /// The kernel's number for it.
    pub index: u32,
    /// The blocks that its source address may be in.
    pub sources: &'a [Ipv4Net],
}

/// Chains that drop what goes through, unless a rule lets everything of that kind pass.
pub fn droppers<'a>(tables: impl Iterator<Item = &'a Table>, packet: &Packet<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (table, chain) in base_chains(tables, "filter", HOOK_FORWARD) {
        let drops = chain.base.as_ref().is_some_and(|base| base.drops);
        match packet.decided(table, chain, 0) {
            Some(Decision::Dropped(by)) => {
                found.push(format!("a rule in chain {by} of table {table} drops it"));
            }
            None | Some(Decision::Returned) if drops => found.push(format!(
                "chain {} of table {table} has the policy drop",
                chain.name
            )),
            _ => {}
        }
    }
    found
}

/// A chain that masquerades.
#[derive(Debug)]
pub struct Masker {
    /// Its name and its table's.
    pub chain: String,
    /// Whether that is for all such packets; else it is for some, by conditions that are not known
    /// here, such as a mark.
    pub certain: bool,
}

/// Chains with a rule that gives such packets this instance's address.
pub fn maskers<'a>(tables: impl Iterator<Item = &'a Table>, packet: &Packet<'_>) -> Vec<Masker> {
    base_chains(tables, "nat", HOOK_POSTROUTING)
        .filter_map(|(table, chain)| {
            Some(Masker {
                certain: packet.masked(table, chain, 0)?,
                chain: format!("chain {} of table {table}", chain.name),
            })
        })
        .collect()
}

fn base_chains<'a>(
    tables: impl Iterator<Item = &'a Table>,
    kind: &'a str,
    hook: u32,
) -> impl Iterator<Item = (&'a Table, &'a Chain)> {
    let chains = tables.flat_map(|table| {
        let chains = table.chains.iter();
        chains.map(move |chain| (table, chain))
    });
    chains.filter(move |(_, chain)| {
        let base = chain.base.as_ref();
        base.is_some_and(|base| base.hook == hook && base.kind == kind)
    })
}

enum Decision {
    Accepted,
    /// By a rule in that chain.
    Dropped(String),
    /// Back to the chain before.
    Returned,
}

/// Whether a rule applies to the packet.
#[derive(Clone, Copy, PartialEq)]
enum Applies {
    Always,
    Never,
    Sometimes,
}

impl Packet<'_> {
    /// What the chain's rules decide for certain; none where they leave it open.
    fn decided(&self, table: &Table, chain: &Chain, depth: usize) -> Option<Decision> {
        for rule in &chain.rules {
            if self.meets(rule) != Applies::Always {
                continue;
            }
            let dropped = || Some(Decision::Dropped(chain.name.clone()));
            match rule.last() {
                Some(Expr::Verdict(Verdict::Accept)) => return Some(Decision::Accepted),
                Some(Expr::Verdict(Verdict::Drop) | Expr::Reject) => return dropped(),
                Some(Expr::Target(name)) if name == "REJECT" => return dropped(),
                Some(Expr::Verdict(Verdict::Return)) => return Some(Decision::Returned),
                Some(Expr::Verdict(Verdict::Jump(to))) if depth < DEEPEST => {
                    match table
                        .chain(to)
                        .and_then(|to| self.decided(table, to, depth + 1))
                    {
                        None | Some(Decision::Returned) => {}
                        decided => return decided,
                    }
                }
                Some(Expr::Verdict(Verdict::Goto(to))) if depth < DEEPEST => {
                    let to = table.chain(to);
                    let decided = to.and_then(|to| self.decided(table, to, depth + 1));
                    // Nothing after a goto is looked at.
                    return decided.or(Some(Decision::Returned));
                }
                _ => {}
            }
        }
        None
    }

    /// Whether a rule of the chain, or of one it leads to, masks the packet, before another one
    /// decides for certain; and whether that is certain, too.
    fn masked(&self, table: &Table, chain: &Chain, depth: usize) -> Option<bool> {
        let mut found = None;
        for rule in &chain.rules {
            let applies = self.meets(rule);
            if applies == Applies::Never {
                continue;
            }
            let always = applies == Applies::Always;
            let masks = match rule.last() {
                Some(Expr::Masquerade { .. } | Expr::SourceNat) => Some(true),
                Some(Expr::Target(name)) if matches!(name.as_str(), "MASQUERADE" | "SNAT") => {
                    Some(true)
                }
                Some(Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to))) if depth < DEEPEST => {
                    let to = table.chain(to);
                    to.and_then(|to| self.masked(table, to, depth + 1))
                }
                _ => None,
            };
            if let Some(certain) = masks {
                found = Some(certain && always);
            }
            let ends = matches!(
                rule.last(),
                Some(Expr::Verdict(
                    Verdict::Accept | Verdict::Drop | Verdict::Return | Verdict::Goto(_)
                ))
            );
            if found == Some(true) || (ends && always) {
                break;
            }
        }
        found
    }

    fn meets(&self, rule: &Rule) -> Applies {
        let mut applies = Applies::Always;
        let mut loaded = None;
        for expr in rule {
            let met = match expr {
                Expr::Meta(_) | Expr::Ct(_) | Expr::Payload { .. } => {
                    loaded = Some((expr, None));
                    continue;
                }
                Expr::Mask(mask) => {
                    loaded = loaded.map(|(what, _)| (what, Some(mask.as_slice())));
                    continue;
                }
                Expr::Cmp { op, value } => self.compares(loaded, *op, value),
                // Tells in its own way which packets it is for, or loads what is not known here.
                Expr::Other(_) => {
                    loaded = None;
                    Applies::Sometimes
                }
                _ => continue,
            };
            match met {
                Applies::Never => return Applies::Never,
                Applies::Sometimes => applies = Applies::Sometimes,
                Applies::Always => {}
            }
        }
        applies
    }

    fn compares(&self, loaded: Option<(&Expr, Option<&[u8]>)>, op: u32, value: &[u8]) -> Applies {
        let Some((what, mask)) = loaded else {
            return Applies::Sometimes;
        };
        let equal = match what {
            Expr::Meta(key) => self.has(*key, value),
            Expr::Payload {
                base,
                offset: 12,
                len,
            } if *base == PayloadBase::NetworkHeader as u32 && *len as usize == value.len() => {
                self.comes_from(value, mask)
            }
            _ => None,
        };
        match equal {
            Some(equal) if op == CmpOps::Eq as u32 => certain(equal),
            Some(equal) if op == CmpOps::Neq as u32 => certain(!equal),
            _ => Applies::Sometimes,
        }
    }

    /// Names are compared in as many bytes as the rule has: it may be the beginning of one.
    fn has(&self, key: u32, value: &[u8]) -> Option<bool> {
        let is = |keys: [MetaKeys; 2]| keys.into_iter().any(|known| known as u32 == key);
        if is([MetaKeys::Iifname, MetaKeys::Oifname]) {
            let mut name = self.interface.as_bytes().to_vec();
            name.resize(name.len().max(value.len()), 0);
            Some(name.starts_with(value))
        } else if is([MetaKeys::Iif, MetaKeys::Oif]) {
            Some(self.index.to_ne_bytes() == value)
        } else if key == MetaKeys::Nfproto as u32 {
            // In tables of both families this comes before an address.
            Some(value == [FAMILY_IPV4])
        } else if key == MetaKeys::Protocol as u32 {
            Some(value == ETHERTYPE_IPV4)
        } else {
            None
        }
    }

    /// Whether the source address is in the block whose first bytes those are; unknown where some
    /// are and others are not.
    fn comes_from(&self, value: &[u8], mask: Option<&[u8]>) -> Option<bool> {
        let four = |bytes: &[u8]| {
            let mut four = [0; 4];
            four.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(four)
        };
        let network = four(value)?;
        let netmask = four(mask.unwrap_or(&vec![0xff; value.len()]))?;
        let block = Ipv4Net::with_netmask(network.into(), netmask.into()).ok()?;
        if self.sources.iter().all(|source| block.contains(source)) {
            return Some(true);
        }
        // Two blocks overlap only where one contains the other.
        let overlaps = |source: &Ipv4Net| block.contains(source) || source.contains(&block);
        (!self.sources.iter().any(overlaps)).then_some(false)
    }
}

fn certain(yes: bool) -> Applies {
    if yes { Applies::Always } else { Applies::Never }
}

#[cfg(test)]
mod tests;
