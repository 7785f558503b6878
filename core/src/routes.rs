//! Tables and identity in, plan out: what to do with each route table's default route, and
//! why. Pure; the rules under which a route is never touched live here.

pub mod answers;
mod warnings;

use std::fmt;

use ipnet::Ipv4Net;

use crate::ids::{InstanceId, InterfaceId, NatGatewayId, SubnetId, TableId, VpcId, Zone};

use answers::{Answers, Elsewhere};

pub use warnings::warnings;

/// The owner tag's value for a table that any NAT instance may claim.
pub const ANY: &str = "any";

/// A route table, as far as this program looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its ID.
    pub id: TableId,
    /// The VPC it belongs to.
    pub vpc: VpcId,
    /// The value of its owner tag.
    pub owner: String,
    /// Whether it serves the VPC's subnets that have no table of their own.
    pub main: bool,
    /// The subnets that are associated with it by name.
    pub subnets: Vec<SubnetId>,
    /// Its route for `0.0.0.0/0`: the static one, or one that is propagated where there is none.
    pub default_route: Option<DefaultRoute>,
    /// Its routes for large parts of the Internet, which win over the default route, and where they
    /// lead.
    pub larger_parts: Vec<(Ipv4Net, Target)>,
}

impl Table {
    /// Why the default route that it has now must not be replaced.
    pub fn must_keep(&self, replaces_endpoints: bool) -> Option<Refusal> {
        match &self.default_route.as_ref()?.target {
            Target::InternetGateway(id) => Some(Refusal::InternetGateway(id.clone())),
            Target::Endpoint(id) if !replaces_endpoints => Some(Refusal::Endpoint(id.clone())),
            _ => None,
        }
    }

    /// Whether it lacks a default route of its own.
    pub fn lacks_static_route(&self) -> bool {
        let route = self.default_route.as_ref();
        route.is_none_or(|route| route.propagated)
    }
}

/// A default route.
#[derive(Clone, Debug, PartialEq)]
pub struct DefaultRoute {
    /// Where it leads.
    pub target: Target,
    /// Whether EC2 says that the target is gone (`blackhole`). It says so late, and never of
    /// an instance that runs without forwarding.
    pub blackhole: bool,
    /// Whether a gateway or a route server propagates it. A static route may stand beside it, and
    /// wins (VPC user guide, "Route priority").
    pub propagated: bool,
}

impl fmt::Display for DefaultRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target)?;
        if self.propagated {
            f.write_str(" (propagated)")?;
        }
        if self.blackhole {
            f.write_str(" (blackhole)")?;
        }
        Ok(())
    }
}

/// A default route, or that there is none.
pub struct Shown<'a>(pub Option<&'a DefaultRoute>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(route) => write!(f, "{route}"),
            None => f.write_str("no default route"),
        }
    }
}

/// Where a default route leads.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A NAT instance. EC2 reports instance and interface, but a route whose interface is
    /// detached has no instance, and either may be missing elsewhere.
    Instance {
        /// The instance.
        instance: Option<InstanceId>,
        /// Its interface.
        interface: Option<InterfaceId>,
    },
    /// An internet gateway or, in a Wavelength zone, a carrier gateway: the way out that a NAT
    /// instance itself needs.
    InternetGateway(String),
    /// A VPC endpoint: a firewall that looks at what leaves the VPC.
    Endpoint(String),
    /// Anything else, by ID: a NAT gateway, a transit gateway, …
    Other(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance {
                instance: Some(instance),
                interface: Some(interface),
            } => write!(f, "{instance}/{interface}"),
            Self::Instance {
                instance: Some(instance),
                ..
            } => write!(f, "{instance}"),
            Self::Instance {
                interface: Some(interface),
                ..
            } => write!(f, "{interface}"),
            Self::Instance { .. } => f.write_str("unknown"),
            Self::InternetGateway(id) | Self::Endpoint(id) | Self::Other(id) => f.write_str(id),
        }
    }
}

/// What this program points a default route at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// A NAT instance, by its interface.
    Instance {
        /// The instance.
        instance: InstanceId,
        /// Its interface.
        interface: InterfaceId,
    },
    /// A NAT gateway.
    NatGateway(NatGatewayId),
}

impl NextHop {
    /// Whether a route leads there. The interface decides where EC2 shows one.
    pub fn is(&self, target: &Target) -> bool {
        match (self, target) {
            (
                Self::Instance { interface, .. },
                Target::Instance {
                    interface: Some(shown),
                    ..
                },
            ) => shown == interface,
            (
                Self::Instance { instance, .. },
                Target::Instance {
                    instance: Some(shown),
                    ..
                },
            ) => shown == instance,
            (Self::NatGateway(id), Target::Other(shown)) => shown == id.as_str(),
            _ => false,
        }
    }

    /// Whether a table's default route leads there and works.
    pub fn holds(&self, table: &Table) -> bool {
        let route = table.default_route.as_ref();
        route.is_some_and(|route| self.is(&route.target) && !route.blackhole)
    }

    /// Whether a table's default route leads there, and EC2 says that nothing is there any more.
    pub fn is_dead_in(&self, table: &Table) -> bool {
        let route = table.default_route.as_ref();
        route.is_some_and(|route| self.is(&route.target) && route.blackhole)
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance {
                instance,
                interface,
            } => write!(f, "{instance}/{interface}"),
            Self::NatGateway(id) => write!(f, "{id}"),
        }
    }
}

/// This NAT instance, as a target of routes.
#[derive(Clone, Debug)]
pub struct Nat {
    /// The instance.
    pub instance: InstanceId,
    /// The interface that routes point at.
    pub interface: InterfaceId,
    /// The subnet it stands in.
    pub subnet: SubnetId,
    /// The VPC it stands in.
    pub vpc: VpcId,
    /// The zone it stands in.
    pub zone: Zone,
}

impl Nat {
    /// This instance, for a route.
    pub fn next_hop(&self) -> NextHop {
        NextHop::Instance {
            instance: self.instance.clone(),
            interface: self.interface.clone(),
        }
    }

    /// Whether a table's default route leads here and works.
    pub fn holds(&self, table: &Table) -> bool {
        self.next_hop().holds(table)
    }

    /// Whether a table's owner tag says that this instance may claim it.
    pub fn may_claim(&self, table: &Table) -> bool {
        table.owner == ANY || table.owner == self.zone.as_str()
    }
}

/// What to do with a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It has no default route, or only one that is propagated: make one.
    Create,
    /// Its default route leads elsewhere, or EC2 shows it as blackhole: replace it.
    Replace,
    /// Its default route leads here already.
    Keep,
    /// It must not be touched.
    Refuse(Refusal),
}

/// Why a table must not be touched.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// It belongs to another VPC.
    OtherVpc(VpcId),
    /// Its owner tag names neither `any` nor this zone.
    OtherOwner(String),
    /// The NAT instance's own subnet uses it: it would route to itself.
    OwnSubnet(SubnetId),
    /// It is the way out to the Internet, for whatever public subnet uses it.
    InternetGateway(String),
    /// It leads through a firewall, which would be passed by.
    Endpoint(String),
    /// Answers to clients of its own would not leave by the NAT's interface.
    AnswersElsewhere {
        /// One of the subnets that it serves.
        subnet: SubnetId,
        /// That subnet's addresses.
        block: Ipv4Net,
        /// Those of them that it is about.
        clients: Elsewhere,
    },
    /// Whether they would is not known, and why.
    AnswersUnknown(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherVpc(vpc) => write!(f, "it belongs to another VPC, {vpc}"),
            Self::OtherOwner(owner) => write!(f, "its owner tag says {owner:?}"),
            Self::OwnSubnet(subnet) => {
                write!(f, "it serves this instance's own subnet, {subnet}")
            }
            Self::InternetGateway(id) => {
                write!(f, "its default route leads to an internet gateway, {id}")
            }
            Self::Endpoint(id) => write!(
                f,
                "its default route leads to a VPC endpoint, {id}, such as a firewall's \
                 (--replace-endpoint)"
            ),
            Self::AnswersElsewhere {
                subnet,
                block,
                clients,
            } => write!(f, "answers to {subnet} ({block}) {clients}"),
            Self::AnswersUnknown(why) => {
                write!(
                    f,
                    "whether answers to its subnets would get there is not known: {why}"
                )
            }
        }
    }
}

/// A table and what to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The table as it was read.
    pub table: Table,
    /// What to do.
    pub action: Action,
}

/// Decides for every table. Tables of the own zone come before those of any zone: they depend
/// on this instance most. Planning again after the plan was carried out says `Keep` (or
/// `Refuse`) throughout.
///
/// `subnet_table` is the table that is associated with the NAT's own subnet by name; without
/// one, the VPC's main table serves the subnet. `replaces_endpoints`: those that lead to an endpoint,
/// too. `answers` is where answers to the VPC's clients go.
pub fn plan(
    tables: Vec<Table>,
    nat: &Nat,
    subnet_table: Option<&TableId>,
    replaces_endpoints: bool,
    answers: &Answers,
) -> Vec<Step> {
    let mut steps: Vec<Step> = tables
        .into_iter()
        .map(|table| Step {
            action: action(&table, nat, subnet_table, replaces_endpoints, answers),
            table,
        })
        .collect();
    steps.sort_by(|a, b| {
        let key = |step: &Step| (step.table.owner == ANY, step.table.id.clone());
        key(a).cmp(&key(b))
    });
    steps
}

fn action(
    table: &Table,
    nat: &Nat,
    subnet_table: Option<&TableId>,
    replaces_endpoints: bool,
    answers: &Answers,
) -> Action {
    if table.vpc != nat.vpc {
        return Action::Refuse(Refusal::OtherVpc(table.vpc.clone()));
    }
    if !nat.may_claim(table) {
        return Action::Refuse(Refusal::OtherOwner(table.owner.clone()));
    }
    let serves_own_subnet = match subnet_table {
        Some(id) => table.id == *id,
        None => table.main,
    };
    if serves_own_subnet || table.subnets.contains(&nat.subnet) {
        return Action::Refuse(Refusal::OwnSubnet(nat.subnet.clone()));
    }
    if let Some(refusal) = table.must_keep(replaces_endpoints) {
        return Action::Refuse(refusal);
    }
    if let Some(refusal) = answers.refusal(table) {
        return Action::Refuse(refusal);
    }
    if nat.holds(table) {
        Action::Keep
    } else if table.lacks_static_route() {
        Action::Create
    } else {
        Action::Replace
    }
}

#[cfg(test)]
mod tests;
