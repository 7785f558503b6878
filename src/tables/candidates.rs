//! Who could take this instance's routes over, and how they are: peers, which are the instances
//! that other tagged tables' default routes lead to, and standby NAT gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::{OptionFuture, join_all};
use hanat_core::ids::{InstanceId, InterfaceId};
use hanat_core::routes::{Nat, NextHop, Table, Target};
use hanat_core::successors::{Candidate, Named};

use crate::aws::autoscaling::{GROUP_MEMBERS, Listed};
use crate::aws::ec2::{Gateway, Interface, Status, status_of};
use crate::aws::session::Session;
use crate::probes::ping;

/// How long each question about candidates may take; the one who they are has no other limit than
/// the whole's where there is no NAT gateway.
pub const CANDIDATE_TIME: Duration = Duration::from_secs(5);

/// Everybody, healthy or not. `tables` are all of the VPC's tagged ones, by the tag `key`.
pub async fn find(
    session: &Session,
    nat: &Nat,
    key: &str,
    tables: &[Table],
) -> Result<Vec<Candidate>> {
    let peers: BTreeSet<&InterfaceId> = tables
        .iter()
        .filter_map(|table| table.default_route.as_ref())
        .filter_map(|route| match &route.target {
            Target::Instance { interface, .. } => interface.as_ref(),
            _ => None,
        })
        .filter(|interface| **interface != nat.interface)
        .collect();
    let peers: Vec<&InterfaceId> = peers.into_iter().collect();
    let peers = async {
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let found = session.ec2.interfaces(&peers).await?;
        Ok(found.into_iter().collect())
    };
    let mut peers = pin!(peers);
    let gateways = session.ec2.standby_gateways(&nat.vpc, key);
    let gateways = known(session, "looking for standby NAT gateways", gateways);
    let in_time = session.within(CANDIDATE_TIME, peers.as_mut().map(Ok));
    let (in_time, gateways) = tokio::join!(in_time, gateways);
    let gateways: Vec<Gateway> = gateways.into_iter().flatten().collect();
    let peers: Result<Vec<Interface>> = match in_time {
        // They are all that there may be.
        Err(_) if gateways.is_empty() => peers.await,
        in_time => in_time.flatten(),
    };
    let peers = match peers {
        Err(error) if gateways.is_empty() => return Err(error),
        peers => session.troubles.tell("looking for peers", peers),
    };
    let mut peers = peers.unwrap_or_default();
    // By another interface of this instance's nothing would be won.
    peers.retain(|found| found.instance.as_ref() != Some(&nat.instance));
    let mut found = examine(session, nat, peers).await;
    found.extend(gateways.into_iter().map(standby));
    mind_main_table(session, nat, tables, &mut found).await;
    Ok(found)
}

/// Finds out whose subnets the main table serves, if that is to go.
async fn mind_main_table(
    session: &Session,
    nat: &Nat,
    tables: &[Table],
    candidates: &mut [Candidate],
) {
    if !tables.iter().any(|table| table.main && nat.holds(table)) {
        return;
    }
    let by_name = candidates.iter().map(|candidate| {
        let subnet = candidate.subnet.as_ref();
        OptionFuture::from(subnet.map(|subnet| session.ec2.subnet_table(subnet)))
    });
    let by_name = join_all(by_name).await;
    for (candidate, by_name) in candidates.iter_mut().zip(by_name) {
        match by_name {
            None => {}
            Some(Ok(by_name)) => candidate.uses_main_table = by_name.is_none(),
            Some(Err(error)) => candidate.trouble = Some(format!("{error:#}")),
        }
    }
}

/// The one that a person names. Fails where there is none such in this VPC.
pub async fn named(
    session: &Session,
    nat: &Nat,
    key: &str,
    tables: &[Table],
    name: &Named,
) -> Result<Candidate> {
    let mut found = [by_name(session, nat, key, name).await?];
    mind_main_table(session, nat, tables, &mut found).await;
    let [found] = found;
    Ok(found)
}

async fn by_name(session: &Session, nat: &Nat, key: &str, name: &Named) -> Result<Candidate> {
    let interface = match name {
        Named::Interface(id) => {
            let found = session.ec2.interfaces(&[id]).await?;
            found.one(|found| found.id == *id)?
        }
        Named::Instance(id) => session.ec2.primary_interface(id).await?,
        Named::NatGateway(id) => {
            let gateways = session.ec2.standby_gateways(&nat.vpc, key).await?;
            let gateway = gateways.one(|gateway| gateway.id == *id)?;
            let gateway = gateway.with_context(|| {
                format!(
                    "{id} is no NAT gateway of {} that is available, public and tagged {key}",
                    nat.vpc
                )
            })?;
            return Ok(standby(gateway));
        }
    };
    let Some(interface) = interface.filter(|found| found.vpc.as_ref() == Ok(&nat.vpc)) else {
        bail!("{} has no such interface or instance", nat.vpc);
    };
    if interface.id == nat.interface || interface.instance.as_ref() == Some(&nat.instance) {
        bail!("that is this instance itself");
    }
    let mut found = examine(session, nat, vec![interface]).await;
    found.pop().context("it is attached to no instance")
}

fn standby(gateway: Gateway) -> Candidate {
    Candidate {
        hop: NextHop::NatGateway(gateway.id),
        zone: gateway.owner.parse().ok(),
        subnet: gateway.subnet,
        uses_main_table: false,
        trouble: None,
    }
}

/// Those that are attached to instances.
async fn examine(session: &Session, nat: &Nat, found: Vec<Interface>) -> Vec<Candidate> {
    let found = found.into_iter();
    let attached: Vec<(InstanceId, Interface)> = found
        .filter_map(|interface| Some((interface.instance.clone()?, interface)))
        .collect();
    if attached.is_empty() {
        return Vec::new();
    }
    let instances: Vec<&InstanceId> = attached.iter().map(|(instance, _)| instance).collect();
    let pings = attached.iter().map(|(_, interface)| {
        let address = interface.address.as_ref().ok();
        OptionFuture::from(address.map(|address| ping::answers(*address)))
    });
    let (running, groups, pings) = tokio::join!(
        known(
            session,
            "asking EC2 how peers are",
            session.ec2.running(&instances)
        ),
        known(
            session,
            "asking Auto Scaling how peers are",
            members(session, &instances)
        ),
        join_all(pings),
    );
    let examined = attached.into_iter().zip(pings);
    examined
        .map(|((instance, interface), answers)| {
            let status = running.as_ref();
            let status = status.and_then(|running| status_of(running, &instance));
            let group = groups.as_ref().and_then(|groups| groups.get(&instance));
            let trouble = trouble(nat, &interface, status, group);
            let trouble = trouble.or_else(|| match (answers?, &interface.address) {
                (Ok(true), _) | (_, Err(_)) => None,
                (Ok(false), Ok(address)) => Some(format!("{address} does not answer ICMP")),
                (Err(error), _) => {
                    let taken = format!("{error:#}; whoever cannot be pinged is taken to answer");
                    session.troubles.warn("pinging", &taken);
                    None
                }
            });
            if let Err(error) = &interface.zone {
                let zone = format!("the zone of {}", interface.id);
                session.troubles.warn(&zone, &error.to_string());
            }
            Candidate {
                hop: NextHop::Instance {
                    instance,
                    interface: interface.id,
                },
                zone: interface.zone.ok(),
                subnet: interface.subnet.ok(),
                uses_main_table: false,
                trouble,
            }
        })
        .collect()
}

/// What the groups say of those that are in one.
async fn members(
    session: &Session,
    instances: &[&InstanceId],
) -> Result<BTreeMap<InstanceId, Listed>> {
    let mut found = BTreeMap::new();
    for some in instances.chunks(GROUP_MEMBERS) {
        found.extend(session.autoscaling.list(some).await?);
    }
    Ok(found)
}

/// What can be known in a few seconds. Routes that have to go cannot wait for everybody to answer:
/// without this much the rest has to do.
async fn known<T>(
    session: &Session,
    what: &str,
    question: impl Future<Output = Result<T>>,
) -> Option<T> {
    let answer = session.within(CANDIDATE_TIME, question).await;
    session.troubles.tell(what, answer)
}

/// What keeps an instance from being a NAT, as far as AWS says. What it does not say is absent.
fn trouble(
    nat: &Nat,
    interface: &Interface,
    status: Option<Status>,
    group: Option<&Listed>,
) -> Option<String> {
    match &interface.vpc {
        Ok(vpc) if *vpc == nat.vpc => {}
        Ok(vpc) => return Some(format!("it stands in another VPC, {vpc}")),
        Err(error) => return Some(format!("its VPC: {error}")),
    }
    if let Err(error) = &interface.subnet {
        return Some(format!("its subnet: {error}"));
    }
    if let Err(error) = &interface.address {
        return Some(format!("its address: {error}"));
    }
    match interface.source_dest_check {
        Some(false) => {}
        Some(true) => return Some("its source/destination check is on".to_owned()),
        None => {
            let unknown = "EC2 does not say whether its source/destination check is off";
            return Some(unknown.to_owned());
        }
    }
    match status {
        Some(Status::Off) => return Some("it does not run".to_owned()),
        Some(Status::Impaired) => return Some("its EC2 status checks fail".to_owned()),
        Some(Status::Fine) | None => {}
    }
    match group {
        Some(Listed { state, .. }) if !state.is_in_service() => {
            Some(format!("its group has it in {state}"))
        }
        Some(Listed { healthy: false, .. }) => Some("its group takes it for unhealthy".to_owned()),
        _ => None,
    }
}
