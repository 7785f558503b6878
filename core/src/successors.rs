//! Who gets a default route that leaves an instance. Pure: candidates in, one for each table out.

use std::collections::BTreeMap;
use std::fmt;

use crate::change::Change;
use crate::ids::{InstanceId, InterfaceId, NatGatewayId, SubnetId, Zone};
use crate::routes::{ANY, Nat, NextHop, Table};

/// Somebody who could take default routes over.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// For a route.
    pub hop: NextHop,
    /// The zone it stands in, where that is known.
    pub zone: Option<Zone>,
    /// The subnet it stands in; a regional NAT gateway stands in none.
    pub subnet: Option<SubnetId>,
    /// Whether the VPC's main table serves that subnet; where this instance does not hold that
    /// table it does not matter and is not asked for.
    pub uses_main_table: bool,
    /// Why it must not get any; none means that it is healthy, as far as can be seen.
    pub trouble: Option<String>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.hop)?;
        if let Some(zone) = &self.zone {
            write!(f, " in {zone}")?;
        }
        Ok(())
    }
}

/// Whom a person names.
#[derive(Clone, Debug)]
pub enum Named {
    /// An instance, by its primary interface.
    Instance(InstanceId),
    /// An instance, by this interface.
    Interface(InterfaceId),
    /// A NAT gateway.
    NatGateway(NatGatewayId),
}

/// Chooses for each table that this instance holds: a healthy instance in the table's zone, else
/// one elsewhere, else a NAT gateway, in the zone if there is one. Of equals the one that serves
/// the fewest tables gets the next. `tables` are all of the VPC's tagged ones.
fn assign<'a>(
    tables: &'a [Table],
    nat: &Nat,
    candidates: &'a [Candidate],
) -> Vec<(&'a Table, Option<&'a Candidate>)> {
    let mut loads: BTreeMap<&NextHop, usize> = candidates
        .iter()
        .map(|candidate| {
            let held = tables.iter().filter(|table| candidate.hop.holds(table));
            (&candidate.hop, held.count())
        })
        .collect();
    let held = tables.iter().filter(|table| nat.holds(table));
    held.map(|table| {
        let able = candidates
            .iter()
            .filter(|candidate| may_get(candidate, table));
        let best = able.min_by_key(|candidate| {
            let load = loads.get(&candidate.hop).copied().unwrap_or_default();
            (rank(candidate, table, nat), load, &candidate.hop)
        });
        if let Some(best) = best {
            *loads.entry(&best.hop).or_default() += 1;
        }
        (table, best)
    })
    .collect()
}

/// Decides where each table that this instance holds is to go. `tables` are all of the VPC's tagged
/// ones.
pub fn plan(tables: &[Table], nat: &Nat, candidates: &[Candidate]) -> Vec<Change> {
    let here = nat.next_hop();
    let change = |(table, to): (&Table, Option<&Candidate>)| {
        let to = to.map(|candidate| candidate.hop.clone());
        Change::hand_over(table.clone(), &here, to.ok_or_else(|| nobody(candidates)))
    };
    let assigned = assign(tables, nat, candidates);
    assigned.into_iter().map(change).collect()
}

/// A table that serves the candidate's own subnet would lead it to itself.
fn may_get(candidate: &Candidate, table: &Table) -> bool {
    let subnet = candidate.subnet.as_ref();
    let is_its_own = subnet.is_some_and(|subnet| table.subnets.contains(subnet))
        || (table.main && candidate.uses_main_table);
    candidate.trouble.is_none() && !is_its_own
}

/// Lower is better. A table for any zone is best kept in this instance's.
fn rank(candidate: &Candidate, table: &Table, nat: &Nat) -> u8 {
    let zone = if table.owner == ANY {
        nat.zone.as_str()
    } else {
        &table.owner
    };
    let here = candidate.zone.as_ref().is_some_and(|z| z.as_str() == zone);
    match (&candidate.hop, here) {
        (NextHop::Instance { .. }, true) => 0,
        (NextHop::Instance { .. }, false) => 1,
        (NextHop::NatGateway(_), true) => 2,
        (NextHop::NatGateway(_), false) => 3,
    }
}

/// Why nobody can be chosen, on one line.
fn nobody(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "there is no other NAT instance with a route and no standby NAT gateway".to_owned();
    }
    let whys = candidates.iter().map(|candidate| {
        let why = candidate.trouble.as_deref();
        format!(
            "{}: {}",
            candidate.hop,
            why.unwrap_or("its own subnet uses the table")
        )
    });
    whys.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
pub mod tests;
