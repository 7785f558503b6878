//! What EC2 says of those that could take routes over: interfaces, instances, NAT gateways.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aws_sdk_ec2::types::{
    ConnectivityType, InstanceStatus, NatGateway, NetworkInterface, SummaryStatus,
};
use hanat_core::ids::{InstanceId, InterfaceId, Malformed, NatGatewayId, SubnetId, VpcId, Zone};

use super::{Ec2, filter};
use crate::aws::clients::Failure;
use crate::aws::lists::List;
use crate::aws::troubles::Troubles;

/// A network interface. What is not known of one is the trouble of whoever has it.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its ID.
    pub id: InterfaceId,
    /// The instance it is attached to.
    pub instance: Option<InstanceId>,
    /// The VPC it stands in.
    pub vpc: Result<VpcId, Malformed>,
    /// The zone it stands in.
    pub zone: Result<Zone, Malformed>,
    /// The subnet it stands in.
    pub subnet: Result<SubnetId, Malformed>,
    /// Its primary private address.
    pub address: Result<Ipv4Addr, Malformed>,
    /// Whether it drops what is not addressed to it, where that is said.
    pub source_dest_check: Option<bool>,
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
    /// The subnet it stands in; a regional one stands in none (VPC user guide, "Regional NAT
    /// gateways").
    pub subnet: Option<SubnetId>,
    /// The value of its owner tag.
    pub owner: String,
}

impl Ec2 {
    /// Those of the interfaces that there are.
    pub async fn interfaces(&self, ids: &[&InterfaceId]) -> Result<List<Interface>> {
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
        found
            .and_then(|found| found.one(|found| found.instance.as_ref() == Some(instance)))
            .with_context(|| format!("describing the interface of {instance}"))
    }

    /// All pages. A filter, unlike a list of IDs, passes over what is gone.
    async fn described(&self, filters: &[(&str, &[&str])]) -> Result<List<Interface>> {
        let filters = filters.iter().map(|(name, values)| filter(name, values));
        let mut pages = self
            .client
            .describe_network_interfaces()
            .set_filters(Some(filters.collect()))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(Failure::from)?;
            found.extend(page.network_interfaces.unwrap_or_default());
        }
        Ok(interfaces(&found, &self.troubles))
    }

    /// Those of the instances that run; see `status_of`.
    pub async fn running(&self, instances: &[&InstanceId]) -> Result<List<(InstanceId, Status)>> {
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
        Ok(statuses(answer.instance_statuses(), &self.troubles))
    }

    /// The VPC's public NAT gateways that work and have the tag `key`, all pages.
    pub async fn standby_gateways(&self, vpc: &VpcId, key: &str) -> Result<List<Gateway>> {
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
            found.extend(page.nat_gateways.unwrap_or_default());
        }
        // A private one leads to other networks, not to the Internet (VPC user guide, "NAT
        // gateways").
        found.retain(|one| one.connectivity_type() != Some(&ConnectivityType::Private));
        Ok(gateways(&found, key, &self.troubles))
    }
}

/// How one of the instances is that `running` was asked for. Where something in the answer could not
/// be understood, an instance that is not in the rest may be that.
pub fn status_of(running: &List<(InstanceId, Status)>, instance: &InstanceId) -> Option<Status> {
    let found = running.iter().find(|(id, _)| id == instance);
    match found {
        Some((_, status)) => Some(*status),
        None if running.odd().is_empty() => Some(Status::Off),
        None => None,
    }
}

fn statuses(found: &[InstanceStatus], troubles: &Troubles) -> List<(InstanceId, Status)> {
    let parse = |found: &InstanceStatus| {
        let id = found.instance_id().unwrap_or_default().parse()?;
        Ok((id, status(found)))
    };
    let id = InstanceStatus::instance_id;
    List::read(found, "the status of", id, parse, troubles)
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

fn gateways(found: &[NatGateway], key: &str, troubles: &Troubles) -> List<Gateway> {
    let parse = |found: &NatGateway| {
        let tag = found.tags().iter().find(|tag| tag.key() == Some(key));
        let owner = tag.and_then(|tag| tag.value()).unwrap_or_default();
        Ok(Gateway {
            id: found.nat_gateway_id().unwrap_or_default().parse()?,
            subnet: found.subnet_id().map(str::parse).transpose()?,
            owner: owner.to_owned(),
        })
    };
    let id = NatGateway::nat_gateway_id;
    List::read(found, "NAT gateway", id, parse, troubles)
}

fn interfaces(found: &[NetworkInterface], troubles: &Troubles) -> List<Interface> {
    let id = NetworkInterface::network_interface_id;
    List::read(found, "network interface", id, interface, troubles)
}

fn interface(found: &NetworkInterface) -> Result<Interface> {
    let attachment = found.attachment();
    let instance = attachment.and_then(|attachment| attachment.instance_id());
    let address = found.private_ip_address().unwrap_or_default();
    Ok(Interface {
        id: found.network_interface_id().unwrap_or_default().parse()?,
        instance: instance.map(str::parse).transpose()?,
        vpc: found.vpc_id().unwrap_or_default().parse(),
        zone: found.availability_zone().unwrap_or_default().parse(),
        subnet: found.subnet_id().unwrap_or_default().parse(),
        address: address
            .parse()
            .map_err(|_| Malformed::new("an IPv4 address", address)),
        source_dest_check: found.source_dest_check(),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{
        AvailabilityMode, InstanceStatusSummary, NetworkInterfaceAttachment, Tag,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::aws::lists::tests::odd_text;

    fn texts() -> impl Strategy<Value = Vec<Option<String>>> {
        proptest::collection::vec(odd_text(), 8)
    }

    fn good_interface(n: u32) -> NetworkInterface {
        let attachment = NetworkInterfaceAttachment::builder().instance_id(format!("i-{n:08x}"));
        NetworkInterface::builder()
            .network_interface_id(format!("eni-{n:08x}"))
            .attachment(attachment.build())
            .vpc_id("vpc-01234567")
            .subnet_id("subnet-01234567")
            .availability_zone("us-east-1a")
            .private_ip_address("10.0.0.4")
            .source_dest_check(false)
            .build()
    }

    fn odd_interface(texts: &[Option<String>]) -> NetworkInterface {
        let text = |n: usize| texts[n].clone();
        let attachment = NetworkInterfaceAttachment::builder().set_instance_id(text(0));
        NetworkInterface::builder()
            .set_network_interface_id(text(1))
            .attachment(attachment.build())
            .set_vpc_id(text(2))
            .set_subnet_id(text(3))
            .set_availability_zone(text(4))
            .set_private_ip_address(text(5))
            .build()
    }

    fn good_gateway(n: u32) -> NatGateway {
        NatGateway::builder()
            .nat_gateway_id(format!("nat-{n:08x}"))
            .subnet_id("subnet-01234567")
            .tags(Tag::builder().key("NATAZ").value("any").build())
            .build()
    }

    /// EC2 API reference, `NatGateway`, `AvailabilityMode`.
    fn regional_gateway(n: u32) -> NatGateway {
        let mut gateway = good_gateway(n);
        gateway.subnet_id = None;
        gateway.availability_mode = Some(AvailabilityMode::Regional);
        gateway
    }

    fn odd_gateway(texts: &[Option<String>]) -> NatGateway {
        let text = |n: usize| texts[n].clone();
        NatGateway::builder()
            .set_nat_gateway_id(text(0))
            .set_subnet_id(text(1))
            .tags(Tag::builder().set_key(text(2)).set_value(text(3)).build())
            .build()
    }

    fn good_status(n: u32) -> InstanceStatus {
        let failed = InstanceStatusSummary::builder().status(SummaryStatus::Impaired);
        InstanceStatus::builder()
            .instance_id(format!("i-{n:08x}"))
            .system_status(failed.build())
            .build()
    }

    fn odd_status(texts: &[Option<String>]) -> InstanceStatus {
        let text = |n: usize| texts[n].clone();
        let check = text(1).map(|text| SummaryStatus::from(text.as_str()));
        let check = InstanceStatusSummary::builder().set_status(check).build();
        InstanceStatus::builder()
            .set_instance_id(text(0))
            .system_status(check)
            .build()
    }

    /// Good ones, one of them twice, with odd ones among them.
    fn mixed<T: Clone>(
        good: &[T; 2],
        odd: &[Vec<Option<String>>],
        make: impl Fn(&[Option<String>]) -> T,
    ) -> Vec<T> {
        let mut mixed: Vec<T> = odd.iter().map(|texts| make(texts)).collect();
        mixed.insert(mixed.len() / 2, good[0].clone());
        mixed.extend([good[1].clone(), good[0].clone()]);
        mixed
    }

    #[test]
    fn what_is_not_known_of_an_interface_is_its_own_trouble() {
        let mut found = good_interface(1);
        found.availability_zone = None;
        found.private_ip_address = Some("fe80::1".to_owned());
        let list = interfaces(&[found], &Troubles::default());
        let [found] = &list[..] else {
            panic!("{list:?}")
        };
        assert!(found.zone.is_err());
        let why = found.address.as_ref().unwrap_err().to_string();
        assert_eq!(why, "expected an IPv4 address, got \"fe80::1\"");
    }

    #[test]
    fn who_may_be_the_odd_one_is_not_off() {
        let (one, other) = ("i-00000001".parse().unwrap(), "i-00000002".parse().unwrap());
        let statuses = |found: &[InstanceStatus]| statuses(found, &Troubles::default());
        let whole = statuses(&[good_status(1)]);
        assert_eq!(status_of(&whole, &one), Some(Status::Impaired));
        assert_eq!(status_of(&whole, &other), Some(Status::Off));
        let spoilt = statuses(&[good_status(1), odd_status(&[None, None])]);
        assert_eq!(status_of(&spoilt, &one), Some(Status::Impaired));
        assert_eq!(status_of(&spoilt, &other), None);
    }

    proptest! {
        #[test]
        fn an_odd_interface_hides_no_other(odd in proptest::collection::vec(texts(), 0..5)) {
            let found = mixed(&[1, 2].map(good_interface), &odd, odd_interface);
            let list = interfaces(&found, &Troubles::default());
            let good = list.iter().filter(|found| found.source_dest_check == Some(false));
            prop_assert_eq!(good.filter(|found| found.address.is_ok()).count(), 2);
        }

        #[test]
        fn an_odd_gateway_hides_no_other(odd in proptest::collection::vec(texts(), 0..5)) {
            let found = mixed(&[good_gateway(1), regional_gateway(2)], &odd, odd_gateway);
            let list = gateways(&found, "NATAZ", &Troubles::default());
            let good: Vec<_> = list.iter().filter(|found| found.owner == "any").collect();
            prop_assert_eq!(good.len(), 2);
            prop_assert!(good[0].subnet.is_some() && good[1].subnet.is_none());
        }

        #[test]
        fn an_odd_status_hides_no_other(odd in proptest::collection::vec(texts(), 0..5)) {
            let found = mixed(&[1, 2].map(good_status), &odd, odd_status);
            let list = statuses(&found, &Troubles::default());
            for n in [1, 2] {
                let id = format!("i-{n:08x}").parse().unwrap();
                prop_assert_eq!(status_of(&list, &id), Some(Status::Impaired));
            }
        }
    }
}
