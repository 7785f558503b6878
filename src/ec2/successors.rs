//! What EC2 says of those that could take routes over: interfaces, instances, NAT gateways.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use aws_sdk_ec2::types::{
    ConnectivityType, InstanceStatus, NatGateway, NetworkInterface, SummaryStatus,
};

use super::{Ec2, filter};
use crate::aws::Failure;
use crate::ids::{InstanceId, InterfaceId, NatGatewayId, SubnetId, VpcId, Zone};

/// A network interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its ID.
    pub id: InterfaceId,
    /// The instance it is attached to.
    pub instance: Option<InstanceId>,
    /// The VPC it stands in.
    pub vpc: VpcId,
    /// The zone it stands in.
    pub zone: Zone,
    /// The subnet it stands in.
    pub subnet: SubnetId,
    /// Its primary private address.
    pub address: Ipv4Addr,
    /// Whether it drops what is not addressed to it.
    pub source_dest_check: bool,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does not run.
    Off,
    /// It runs, and nothing is known to be wrong with it.
    Fine,
    /// It runs, and one of EC2's status checks failed.
    Impaired,
}

/// A NAT gateway that works.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Its ID.
    pub id: NatGatewayId,
    /// The subnet it stands in.
    pub subnet: SubnetId,
    /// The value of its owner tag.
    pub owner: String,
}

impl Ec2 {
    /// Those of the interfaces that there are.
    pub async fn interfaces(&self, ids: &[&InterfaceId]) -> Result<Vec<Interface>> {
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        self.described(&[("network-interface-id", &ids)])
            .await
            .with_context(|| format!("describing {}", ids.join(", ")))
    }

    /// The primary interface of an instance, if that is there.
    pub async fn primary_interface(&self, instance: &InstanceId) -> Result<Option<Interface>> {
        let filters = [
            ("attachment.instance-id", &[instance.as_str()][..]),
            ("attachment.device-index", &["0"]),
        ];
        let found = self.described(&filters).await;
        let found = found.with_context(|| format!("describing the interface of {instance}"))?;
        Ok(found.into_iter().next())
    }

    /// All pages. A filter, unlike a list of IDs, passes over what is gone.
    async fn described(&self, filters: &[(&str, &[&str])]) -> Result<Vec<Interface>> {
        let filters = filters.iter().map(|(name, values)| filter(name, values));
        let mut pages = self
            .client
            .describe_network_interfaces()
            .set_filters(Some(filters.collect()))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            for one in page.map_err(Failure::from)?.network_interfaces() {
                found.push(interface(one)?);
            }
        }
        Ok(found)
    }

    /// Those of the instances that run.
    pub async fn running(&self, instances: &[&InstanceId]) -> Result<BTreeMap<InstanceId, Status>> {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let doing = || format!("describing the status of {}", ids.join(", "));
        let answer = self
            .client
            .describe_instance_status()
            .set_instance_ids(Some(ids.clone()))
            // Without a filter it would draw on a smaller bucket (EC2 API reference, "Request
            // throttling": unfiltered and unpaginated actions).
            .filters(filter("instance-state-name", &["running"]))
            .send()
            .await
            .map_err(Failure::from)
            .with_context(doing)?;
        let running = answer.instance_statuses().iter();
        running
            .map(|found| {
                let id = found.instance_id().unwrap_or_default().parse()?;
                Ok((id, status(found)))
            })
            .collect::<Result<_>>()
            .with_context(doing)
    }

    /// The VPC's public NAT gateways that work and have the tag `key`, all pages.
    pub async fn standby_gateways(&self, vpc: &VpcId, key: &str) -> Result<Vec<Gateway>> {
        let doing = || format!("describing the NAT gateways of {vpc}");
        let mut pages = self
            .client
            .describe_nat_gateways()
            .filter(filter("vpc-id", &[vpc.as_str()]))
            .filter(filter("state", &["available"]))
            .filter(filter("tag-key", &[key]))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(Failure::from).with_context(doing)?;
            for one in page.nat_gateways().iter().filter(|one| is_public(one)) {
                let tag = one.tags().iter().find(|tag| tag.key() == Some(key));
                let owner = tag.and_then(|tag| tag.value()).unwrap_or_default();
                found.push(Gateway {
                    id: one.nat_gateway_id().unwrap_or_default().parse()?,
                    subnet: one.subnet_id().unwrap_or_default().parse()?,
                    owner: owner.to_owned(),
                });
            }
        }
        Ok(found)
    }
}

/// A private one leads to other networks, not to the Internet (VPC user guide, "NAT gateways").
fn is_public(gateway: &NatGateway) -> bool {
    let kind = gateway.connectivity_type().map(ConnectivityType::as_str);
    kind.is_none_or(|kind| kind == "public")
}

/// Checks that were not made yet, or cannot be, tell nothing.
fn status(found: &InstanceStatus) -> Status {
    let impaired = [found.instance_status(), found.system_status()]
        .into_iter()
        .flatten()
        .any(|check| check.status() == Some(&SummaryStatus::Impaired));
    if impaired {
        Status::Impaired
    } else {
        Status::Fine
    }
}

fn interface(found: &NetworkInterface) -> Result<Interface> {
    let attachment = found.attachment();
    let instance = attachment.and_then(|attachment| attachment.instance_id());
    let address = found.private_ip_address().unwrap_or_default();
    Ok(Interface {
        id: found.network_interface_id().unwrap_or_default().parse()?,
        instance: instance.map(str::parse).transpose()?,
        vpc: found.vpc_id().unwrap_or_default().parse()?,
        zone: found.availability_zone().unwrap_or_default().parse()?,
        subnet: found.subnet_id().unwrap_or_default().parse()?,
        address: address
            .parse()
            .with_context(|| format!("the address {address:?}"))?,
        source_dest_check: found
            .source_dest_check()
            .ok_or_else(|| anyhow!("the answer has no source/destination check"))?,
    })
}
