//! What may become of a packet in a chain and in those that it leads to. No I/O.

use std::collections::{BTreeSet, HashMap};

use super::conditions::{self, End, Outcome};
use super::packet::{Followed, Marks};
use crate::kernel::ruleset::{Chain, Sets, Table, Verdict};

/// All that may happen; more than one where it is not known what does, or where it is not the same
/// for all such packets.
#[derive(Clone, Debug, Default)]
pub struct Fates {
    pub accepted: bool,
    /// By a rule in that chain.
    pub dropped: Option<String>,
    /// It gets this instance's address.
    pub masked: bool,
    /// No rule decides: back to the chain before, or to the policy.
    pub returned: bool,
    /// The conditions that it hangs on.
    pub doubts: BTreeSet<String>,
}

impl Fates {
    /// Whether nothing else can happen.
    pub fn always_masked(&self) -> bool {
        self.masked && !self.accepted && !self.returned && self.dropped.is_none()
    }

    fn add(&mut self, other: &Self) {
        self.accepted |= other.accepted;
        self.masked |= other.masked;
        if self.dropped.is_none() {
            self.dropped.clone_from(&other.dropped);
        }
        self.doubts.extend(other.doubts.iter().cloned());
    }
}

/// Follows one packet through chains of one table.
pub struct Follower<'a> {
    packet: &'a Followed<'a>,
    table: &'a Table,
    sets: &'a Sets,
    chains: HashMap<&'a str, &'a Chain>,
    /// What was found in chains that were followed before. Those that are being followed return:
    /// the kernel lets none lead back to itself.
    found: HashMap<&'a str, Fates>,
    /// Whether rules may have marked it.
    pub marks: Marks,
}

impl<'a> Follower<'a> {
    pub fn new(packet: &'a Followed<'a>, table: &'a Table, sets: &'a Sets) -> Self {
        let chains = table.chains.iter();
        Self {
            packet,
            table,
            sets,
            chains: chains.map(|chain| (chain.name.as_str(), chain)).collect(),
            found: HashMap::new(),
            marks: packet.marks,
        }
    }

    pub fn follow(&mut self, chain: &'a Chain) -> Fates {
        if let Some(fates) = self.found.get(chain.name.as_str()) {
            return fates.clone();
        }
        let returns = Fates {
            returned: true,
            ..Fates::default()
        };
        self.found.insert(&chain.name, returns);
        let fates = self.follow_rules(chain);
        self.found.insert(&chain.name, fates.clone());
        fates
    }

    fn follow_rules(&mut self, chain: &'a Chain) -> Fates {
        let mut fates = Fates::default();
        for rule in &chain.rules {
            let outcome = conditions::outcome(self.packet, self.table, self.sets, rule);
            self.marks.packet |= outcome.marks_packet;
            self.marks.connection |= outcome.marks_connection;
            if !self.goes_on(outcome, chain, &mut fates) {
                return fates;
            }
        }
        fates.returned = true;
        fates
    }

    /// Adds what the rule may do; whether the next one is looked at.
    fn goes_on(&mut self, outcome: Outcome<'a>, chain: &Chain, fates: &mut Fates) -> bool {
        let mut goes_on = outcome.goes_on;
        let mut drops = || Some(chain.name.clone());
        for end in outcome.ends {
            match end {
                End::Verdict(Verdict::Accept) => fates.accepted = true,
                End::Verdict(Verdict::Drop) | End::Drops => {
                    fates.dropped = fates.dropped.take().or_else(&mut drops);
                }
                End::Verdict(Verdict::Return) => fates.returned = true,
                End::Verdict(Verdict::Jump(to)) => {
                    let found = self.follow_to(to);
                    fates.add(&found);
                    goes_on |= found.returned;
                }
                End::Verdict(Verdict::Goto(to)) => {
                    let found = self.follow_to(to);
                    fates.add(&found);
                    fates.returned |= found.returned;
                }
                // To go on, in a map.
                End::Verdict(Verdict::Other(_)) => goes_on = true,
                End::Masks => fates.masked = true,
                End::Leaves => {
                    fates.accepted = true;
                    fates.dropped = fates.dropped.take().or_else(&mut drops);
                    goes_on = true;
                }
            }
        }
        let doubts = outcome.doubts.into_iter();
        fates
            .doubts
            .extend(doubts.map(|doubt| format!("{doubt} in chain {}", chain.name)));
        goes_on
    }

    /// A chain that is gone since its rules were read decides nothing.
    fn follow_to(&mut self, name: &str) -> Fates {
        match self.chains.get(name) {
            Some(chain) => self.follow(chain),
            None => Fates {
                returned: true,
                ..Fates::default()
            },
        }
    }
}
