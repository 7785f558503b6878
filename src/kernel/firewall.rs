//! What the rules of others do to packets that this instance is to forward. No I/O.
//!
//! It follows packets through their chains, for each block of the VPC by itself: the first one of a
//! connection, in and out by the same interface, the answer, and what comes after that. What is
//! dropped for certain of what clients send stands in the way. A condition that is not understood may hold or not, and so
//! may one that some of those packets meet: then it is a doubt.

mod conditions;
mod follow;
mod matches;
mod packet;
mod registers;
mod values;

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::ruleset::{
    Chain, FAMILY_IPV4, HOOK_FORWARD, HOOK_POSTROUTING, HOOK_PREROUTING, Sets, Table,
};
use follow::{Fates, Follower};
use packet::{Followed, Marks, Moment, Protocol};

const MOMENTS: [Moment; 3] = [Moment::First, Moment::Answer, Moment::Later];

/// Without the first one this is no NAT.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];

/// So many doubts are named.
const NAMED: usize = 4;

/// What is forwarded here.
#[derive(Debug)]
pub struct Packet<'a> {
    /// By which it comes in and goes out.
    pub interface: &'a str,
    /// The kernel's number for it.
    pub index: u32,
    /// The blocks that its source address may be in.
    pub sources: &'a [Ipv4Net],
}

/// Others' tables and what their rules look things up in.
pub struct Rules<'a> {
    tables: Vec<&'a Table>,
    sets: &'a Sets,
}

/// What others do to what is forwarded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What drops, for certain, what at least one block sends.
    pub obstacles: Vec<String>,
    /// The same of the answers alone.
    pub lost_answers: Vec<String>,
    /// What may drop, or drops some.
    pub doubts: Vec<String>,
}

/// A chain that masquerades.
#[derive(Debug)]
pub struct Masker {
    /// Its name and its table's.
    pub chain: String,
    /// Whether that is for all such packets; else it is for some, or by conditions that are not
    /// understood here.
    pub certain: bool,
}

/// A chain, and the table that it is in.
type Place<'a> = (&'a Table, &'a Chain);

/// What becomes of a packet in a base chain.
enum Fate {
    Passes,
    /// How.
    Dropped(String),
    /// How, and what it hangs on.
    Uncertain(String, BTreeSet<String>),
}

impl<'a> Packet<'a> {
    /// Of each kind, what comes from the block or goes back there.
    fn from(&self, block: Ipv4Net) -> impl Iterator<Item = Followed<'a>> {
        let (interface, index) = (self.interface, self.index);
        let followed = move |moment| {
            PROTOCOLS.map(|protocol| Followed {
                interface,
                index,
                block,
                moment,
                protocol,
                typical: false,
                marks: Marks::default(),
            })
        };
        MOMENTS.into_iter().flat_map(followed)
    }
}

impl<'a> Rules<'a> {
    pub fn new(tables: impl Iterator<Item = &'a Table>, sets: &'a Sets) -> Self {
        let tables = tables.collect();
        Self { tables, sets }
    }

    /// Whether what is forwarded passes.
    pub fn judge(&self, packet: &Packet<'_>) -> Judgement {
        let mut judgement = Judgement::default();
        let blocks = packet.sources.iter();
        let marks: Vec<[Marks; 2]> = blocks.map(|block| self.marks(packet, *block)).collect();
        for place in self.base_chains("filter", HOOK_FORWARD) {
            let mut found = Found::default();
            for (block, marks) in packet.sources.iter().zip(&marks) {
                for followed in packet.from(*block) {
                    found.add(&followed, fate(place, self.both(followed, *marks, place)));
                }
            }
            found.tell(packet, &mut judgement);
        }
        judgement
    }

    /// Chains with a rule that gives such packets this instance's address.
    pub fn maskers(&self, packet: &Packet<'_>) -> Vec<Masker> {
        let mut maskers = Vec::new();
        for place in self.base_chains("nat", HOOK_POSTROUTING) {
            let (mut some, mut all) = (false, true);
            for block in packet.sources {
                let marks = self.marks(packet, *block);
                // Connections are translated by their first packets.
                let first = packet.from(*block);
                for followed in first.filter(|followed| followed.moment == Moment::First) {
                    let [typically, ever] = self.both(followed, marks, place);
                    some |= ever.masked;
                    all &= typically.always_masked();
                }
            }
            if some {
                let (table, chain) = place;
                maskers.push(Masker {
                    certain: all,
                    chain: format!("chain {} of table {table}", chain.name),
                });
            }
        }
        maskers
    }

    /// What typically happens, and what ever may.
    fn both(&self, followed: Followed<'_>, marks: [Marks; 2], place: Place<'_>) -> [Fates; 2] {
        let (table, chain) = place;
        [(true, marks[0]), (false, marks[1])].map(|(typical, marks)| {
            let followed = Followed {
                typical,
                marks,
                ..followed
            };
            Follower::new(&followed, table, self.sets).follow(chain)
        })
    }

    /// Whether rules on the way may mark what comes from the block: typically, and ever.
    fn marks(&self, packet: &Packet<'_>, block: Ipv4Net) -> [Marks; 2] {
        const HOOKS: [u32; 3] = [HOOK_PREROUTING, HOOK_FORWARD, HOOK_POSTROUTING];
        [true, false].map(|typical| {
            let mut marks = Marks::default();
            for followed in packet.from(block) {
                for (table, chain) in self.tables.iter().flat_map(|table| chains_of(table)) {
                    if chain.is_on(&HOOKS) {
                        let packet = Followed {
                            typical,
                            marks,
                            ..followed
                        };
                        let mut follower = Follower::new(&packet, table, self.sets);
                        follower.follow(chain);
                        marks = follower.marks;
                    }
                }
            }
            marks
        })
    }

    fn base_chains(&self, kind: &str, hook: u32) -> impl Iterator<Item = Place<'a>> {
        let chains = self.tables.iter().flat_map(|table| chains_of(table));
        chains.filter(move |(_, chain)| {
            let base = chain.base.as_ref();
            base.is_some_and(|base| base.hook == hook && base.kind == kind)
        })
    }
}

fn chains_of(table: &Table) -> impl Iterator<Item = Place<'_>> {
    table.chains.iter().map(move |chain| (table, chain))
}

/// What becomes of it once the policy has its say, from what typically happens and what ever may.
fn fate((table, chain): Place<'_>, [typically, ever]: [Fates; 2]) -> Fate {
    let drops = chain.base.as_ref().is_some_and(|base| base.drops);
    let passes = |fates: &Fates| fates.accepted || fates.masked || (fates.returned && !drops);
    let dropped = |fates: &Fates| {
        let by_rule = fates.dropped.as_ref();
        let by_rule = by_rule.map(|by| format!("a rule in chain {by} of table {table} drops it"));
        by_rule.or_else(|| {
            let name = &chain.name;
            (fates.returned && drops)
                .then(|| format!("chain {name} of table {table} has the policy drop"))
        })
    };
    match dropped(&typically) {
        None => Fate::Passes,
        Some(how) if !passes(&ever) => Fate::Dropped(how),
        Some(how) if passes(&typically) => Fate::Uncertain(how, typically.doubts),
        Some(how) => Fate::Uncertain(how, ever.doubts),
    }
}

/// What was found out about one base chain.
#[derive(Default)]
struct Found {
    /// Of TCP: how, and for which blocks.
    dropped: Vec<(String, Ipv4Net)>,
    /// The same of answers and of what comes after them.
    answers_dropped: Vec<(String, Ipv4Net)>,
    /// How, for which protocols if not all, and the conditions that it hangs on.
    uncertain: Vec<(String, BTreeSet<String>)>,
    of_protocols: BTreeSet<(&'static str, String)>,
}

impl Found {
    fn add(&mut self, followed: &Followed<'_>, fate: Fate) {
        let block = followed.block;
        match (fate, followed.protocol) {
            (Fate::Passes, _) => {}
            (Fate::Dropped(how), Protocol::Tcp) if followed.moment == Moment::First => {
                self.dropped.push((how, block));
            }
            (Fate::Dropped(how), Protocol::Tcp) => self.answers_dropped.push((how, block)),
            (Fate::Dropped(how), protocol) => {
                let name = if protocol == Protocol::Udp {
                    "UDP"
                } else {
                    "ICMP"
                };
                self.of_protocols.insert((name, how));
            }
            (Fate::Uncertain(how, doubts), _) => self.uncertain.push((how, doubts)),
        }
    }

    /// The worst of it, once.
    fn tell(self, packet: &Packet<'_>, judgement: &mut Judgement) {
        if !self.dropped.is_empty() {
            judgement.obstacles.push(certain(&self.dropped, packet));
        } else if !self.answers_dropped.is_empty() {
            let answers = certain(&self.answers_dropped, packet);
            judgement.lost_answers.push(answers);
        } else if let Some((how, _)) = self.uncertain.first() {
            let doubts = self.uncertain.iter().flat_map(|(_, doubts)| doubts);
            let doubts: BTreeSet<&str> = doubts.map(String::as_str).collect();
            let mut named: Vec<&str> = doubts.iter().copied().take(NAMED).collect();
            if doubts.len() > NAMED {
                named.push("and more");
            }
            let named = named.join(", ");
            let doubt = format!("{how}, and whether it comes to that hangs on {named}");
            judgement.doubts.push(doubt);
        } else {
            let protocols = self.of_protocols.into_iter();
            let doubts = protocols.map(|(protocol, how)| format!("{how}, if it is {protocol}"));
            judgement.doubts.extend(doubts);
        }
    }
}

/// How, and from which blocks if not from all.
fn certain(dropped: &[(String, Ipv4Net)], packet: &Packet<'_>) -> String {
    let blocks: BTreeSet<Ipv4Net> = dropped.iter().map(|(_, block)| *block).collect();
    let how = &dropped[0].0;
    if packet.sources.iter().all(|block| blocks.contains(block)) {
        return how.clone();
    }
    let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    format!("{how} ({})", blocks.join(", "))
}

#[cfg(test)]
mod tests;
