//! Whether a rule applies to a packet that is followed, and what it decides then. No I/O.

use super::matches;
use super::packet::Followed;
use super::registers::{Registers, compared, contained, names, within};
use super::values::{Field, Truth};
use crate::kernel::ruleset::{Expr, Others, Rule, Sets, Table, Verdict};
use crate::kernel::sets::Set;

/// Targets of iptables after which the next rule is looked at.
const ASIDE: [&str; 22] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CT",
    "DSCP",
    "ECN",
    "HMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "NFLOG",
    "NOTRACK",
    "RATEEST",
    "SECMARK",
    "CONNSECMARK",
    "SET",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TRACE",
    "TTL",
];

/// What a rule may do with the packet.
#[derive(Debug, Default)]
pub struct Outcome<'a> {
    /// Whether the next rule may be looked at.
    pub goes_on: bool,
    /// What it may decide. More than one where it looks that up.
    pub ends: Vec<End<'a>>,
    /// Conditions that it takes to know.
    pub doubts: Vec<String>,
    pub marks_packet: bool,
    pub marks_connection: bool,
}

/// What a rule decides.
#[derive(Debug)]
pub enum End<'a> {
    Verdict(&'a Verdict),
    Drops,
    /// Gives the packet this instance's address.
    Masks,
    /// Takes the packet to where it is not followed.
    Leaves,
}

/// What the rule does.
pub fn outcome<'a>(
    packet: &Followed<'_>,
    table: &Table,
    sets: &'a Sets,
    rule: &'a Rule,
) -> Outcome<'a> {
    let mut walk = Walk {
        packet,
        table,
        sets,
        registers: Registers::default(),
        outcome: Outcome::default(),
    };
    for expr in rule {
        if !walk.step(expr, 1) {
            return walk.outcome;
        }
    }
    walk.outcome.goes_on = true;
    walk.outcome
}

struct Walk<'a, 'b> {
    packet: &'b Followed<'b>,
    table: &'b Table,
    sets: &'a Sets,
    registers: Registers,
    outcome: Outcome<'a>,
}

impl<'a> Walk<'a, '_> {
    /// Whether the expression after this one is looked at.
    fn step(&mut self, expr: &'a Expr, register: u32) -> bool {
        match expr {
            Expr::Meta(key) => match self.packet.meta(*key) {
                Some(field) => self.registers.load(register, vec![field]),
                None => return self.condition(Truth::Never, String::new),
            },
            Expr::Ct(key) => {
                let field = self.packet.ct(*key, None);
                self.registers.load(register, vec![field]);
            }
            Expr::Payload { base, offset, len } => {
                let fields = self.packet.payload(*base, *offset, *len);
                self.registers.load(register, fields);
            }
            Expr::Value(value) => {
                self.registers.load(register, vec![Field::known("", value)]);
            }
            Expr::Mask(mask) => {
                self.registers.mask(register, mask, &[]);
            }
            Expr::Cmp { op, value } => {
                let fields = self.registers.read(register, value.len());
                let truth = compared(&fields, *op, value);
                return self.condition(truth, || names(&fields));
            }
            Expr::Verdict(verdict) => return self.end(End::Verdict(verdict)),
            Expr::Masquerade { .. } | Expr::SourceNat => return self.end(End::Masks),
            Expr::Reject => return self.end(End::Drops),
            Expr::Target(name) => return self.target(name),
            Expr::Counter | Expr::Aside | Expr::SetMaxSegment => {}
            Expr::Others(others) => return self.step_of_others(others, register),
            Expr::Other(name) => {
                if matches!(name.as_str(), "queue" | "synproxy" | "tproxy" | "fwd") {
                    self.outcome.doubts.push(name.clone());
                    return self.end(End::Leaves);
                }
                // It may load something, too.
                self.registers = Registers::default();
                return self.condition(Truth::Maybe, || name.clone());
            }
        }
        true
    }

    fn step_of_others(&mut self, others: &'a Others, register: u32) -> bool {
        match others {
            Others::On(register, expr) => return self.step(expr, *register),
            Others::CtOf { key, direction } => {
                let field = self.packet.ct(*key, Some(*direction));
                self.registers.load(register, vec![field]);
            }
            Others::Fib { result, flags } => {
                let field = self.packet.fib(*result, *flags);
                self.registers.load(register, vec![field]);
            }
            Others::Flip { mask, bits } => {
                self.registers.mask(register, mask, bits);
            }
            Others::Swap(size) => {
                self.registers.swap(register, *size);
            }
            Others::Range { from, to, inverted } => {
                let fields = self.registers.read(register, from.len());
                let truth = within(&fields, from, to).inverted(*inverted);
                return self.condition(truth, || names(&fields));
            }
            Others::Lookup { set, inverted } => {
                let (truth, doubt) = self.looked_up(set, register);
                return self.condition(truth.inverted(*inverted), || doubt);
            }
            Others::VerdictMap(map) => return self.verdict_map(map, register),
            Others::Limit { above } => {
                // Typically nothing is above.
                let truth = if self.packet.typical && *above {
                    Truth::Never
                } else {
                    Truth::Maybe
                };
                return self.condition(truth, || "a limit".to_owned());
            }
            Others::Match {
                name,
                revision,
                info,
            } => {
                let truth = matches::holds(self.packet, name, *revision, info);
                let truth = truth.unwrap_or(Truth::Maybe);
                return self.condition(truth, || format!("iptables' match {name}"));
            }
            Others::SetMark => self.outcome.marks_packet = true,
            Others::SetConnectionMark => self.outcome.marks_connection = true,
        }
        true
    }

    /// Where it does not hold, the next rule is looked at.
    fn condition(&mut self, truth: Truth, doubt: impl FnOnce() -> String) -> bool {
        match truth {
            Truth::Always => true,
            Truth::Maybe => {
                self.outcome.goes_on = true;
                self.outcome.doubts.push(doubt());
                true
            }
            Truth::Never => {
                self.outcome.goes_on = true;
                false
            }
        }
    }

    fn end(&mut self, end: End<'a>) -> bool {
        self.outcome.ends.push(end);
        false
    }

    fn target(&mut self, name: &str) -> bool {
        match name {
            "REJECT" => self.end(End::Drops),
            "MASQUERADE" | "SNAT" | "NETMAP" => self.end(End::Masks),
            "MARK" => {
                self.outcome.marks_packet = true;
                true
            }
            "CONNMARK" => {
                self.outcome.marks_packet = true;
                self.outcome.marks_connection = true;
                true
            }
            _ if ASIDE.contains(&name) => true,
            _ => {
                self.outcome.doubts.push(format!("iptables' target {name}"));
                self.outcome.goes_on = true;
                self.end(End::Leaves)
            }
        }
    }

    fn set(&self, name: &str) -> Result<&'a Set, String> {
        let key = (self.table.family, self.table.name.clone(), name.to_owned());
        match self.sets.get(&key) {
            Some(Ok(set)) => Ok(set),
            Some(Err(error)) => Err(format!("@{name} ({error})")),
            None => Err(format!("@{name}")),
        }
    }

    fn looked_up(&self, name: &str, register: u32) -> (Truth, String) {
        let set = match self.set(name) {
            Ok(set) => set,
            Err(doubt) => return (Truth::Maybe, doubt),
        };
        if set.catchall.is_some() {
            return (Truth::Always, String::new());
        }
        let Some(first) = set.elements.first() else {
            return (Truth::Never, String::new());
        };
        let fields = self.registers.read(register, first.from.len());
        (contained(&fields, &set.elements), names(&fields))
    }

    /// Each element that may be meant decides in its own way.
    fn verdict_map(&mut self, name: &str, register: u32) -> bool {
        let set = match self.set(name) {
            Ok(set) => set,
            Err(doubt) => {
                self.outcome.doubts.push(doubt);
                self.outcome.goes_on = true;
                return self.end(End::Leaves);
            }
        };
        let len = set.elements.first().map_or(0, |first| first.from.len());
        let fields = self.registers.read(register, len);
        let mut found = Vec::new();
        for element in &set.elements {
            match within(&fields, &element.from, &element.to) {
                Truth::Never => {}
                Truth::Always => {
                    found = vec![&element.verdict];
                    break;
                }
                Truth::Maybe => found.push(&element.verdict),
            }
        }
        let contained = contained(&fields, &set.elements);
        if contained != Truth::Always {
            match &set.catchall {
                Some(catchall) => found.push(&catchall.verdict),
                None => self.outcome.goes_on = true,
            }
        }
        if found.len() > 1 || contained == Truth::Maybe {
            self.outcome.doubts.push(names(&fields));
        }
        let verdicts = found.into_iter().flatten();
        self.outcome.ends.extend(verdicts.map(End::Verdict));
        false
    }
}
