//! EC2: route tables and the interface's source/destination check, in this project's types.

use anyhow::{Context, Result, anyhow, bail};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    AttributeBooleanValue, Filter, NetworkInterface, Route, RouteState, RouteTable,
};

use crate::aws::{Failure, Kind};
use crate::config::ROUTE_CALLS;
use crate::ids::{InterfaceId, SubnetId, TableId, VpcId};
use crate::pace::Pace;
use crate::routes::{Action, DefaultRoute, Table, Target};

const DEFAULT: &str = "0.0.0.0/0";

/// The largest page that `DescribeRouteTables` gives (EC2 API reference: 5 to 100).
const PAGE: i32 = 100;

/// How often creating and replacing may each find that the other was right, while another NAT
/// acts on the same table, before it is reported.
const TURNS: usize = 4;

/// The EC2 calls this program makes.
#[derive(Debug)]
pub struct Ec2 {
    client: Client,
    pace: Pace,
}

impl Ec2 {
    /// Calls nothing yet.
    pub fn new(client: Client) -> Self {
        let pace = Pace::new(ROUTE_CALLS);
        Self { client, pace }
    }

    /// Every route table of the VPC whose tag `key` has one of `values`, all pages. Reads are
    /// eventually consistent.
    pub async fn tagged_tables(
        &self,
        vpc: &VpcId,
        key: &str,
        values: &[&str],
    ) -> Result<Vec<Table>> {
        let tag = format!("tag:{key}");
        let filters = [("vpc-id", &[vpc.as_str()][..]), (&tag, values)];
        self.tables(key, &filters)
            .await
            .with_context(|| format!("describing the route tables of {vpc}"))
    }

    /// The table that is associated with a subnet by name. Without one, the VPC's main table
    /// serves it.
    pub async fn subnet_table(&self, subnet: &SubnetId) -> Result<Option<TableId>> {
        let tables = self
            .tables("", &[("association.subnet-id", &[subnet.as_str()])])
            .await
            .with_context(|| format!("describing the route table of {subnet}"))?;
        Ok(tables.into_iter().next().map(|table| table.id))
    }

    /// All pages of what the filters (name, values) let through, with the values of tag `key`.
    async fn tables(&self, key: &str, filters: &[(&str, &[&str])]) -> Result<Vec<Table>> {
        let filters = filters.iter().map(|(name, values)| {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            Filter::builder()
                .name(*name)
                .set_values(Some(values))
                .build()
        });
        let mut pages = self
            .client
            .describe_route_tables()
            .set_filters(Some(filters.collect()))
            .max_results(PAGE)
            .into_paginator()
            .send();
        let mut tables = Vec::new();
        while let Some(page) = pages.next().await {
            for found in page.map_err(Failure::from)?.route_tables() {
                tables.push(table(found, key)?);
            }
        }
        Ok(tables)
    }

    /// Whether the interface drops what is not addressed to it, as every interface does until
    /// it is told otherwise. A NAT's must not.
    pub async fn source_dest_check(&self, interface: &InterfaceId) -> Result<bool> {
        let doing = || format!("describing {interface}");
        let answer = self
            .client
            .describe_network_interfaces()
            .network_interface_ids(interface.as_str())
            .send()
            .await
            .map_err(Failure::from)
            .with_context(doing)?;
        let found = answer.network_interfaces().first();
        found
            .and_then(NetworkInterface::source_dest_check)
            .ok_or_else(|| anyhow!("the answer has no source/destination check"))
            .with_context(doing)
    }

    /// Turns the source/destination check off.
    pub async fn disable_source_dest_check(&self, interface: &InterfaceId) -> Result<()> {
        self.client
            .modify_network_interface_attribute()
            .network_interface_id(interface.as_str())
            .source_dest_check(AttributeBooleanValue::builder().value(false).build())
            .send()
            .await
            .map_err(Failure::from)
            .with_context(|| format!("turning the source/destination check of {interface} off"))?;
        Ok(())
    }

    /// Points the default route of a table at an interface. Another NAT may create the route
    /// at the same moment, or a person delete it: whichever call turns out to be wrong, the
    /// other one is made.
    pub async fn point_default_route(
        &self,
        table: &TableId,
        action: &Action,
        interface: &InterfaceId,
    ) -> Result<()> {
        let mut create = *action == Action::Create;
        let mut turns = 0;
        loop {
            self.pace.turn().await;
            let done = if create {
                self.create_default_route(table, interface).await
            } else {
                self.replace_default_route(table, interface).await
            };
            let Err(failure) = done else { return Ok(()) };
            turns += 1;
            match failure.kind() {
                Kind::NoSuchRoute if turns < TURNS => create = true,
                Kind::RouteExists if turns < TURNS => {
                    self.check_replaceable(table).await?;
                    create = false;
                }
                _ => {
                    let verb = if create { "creating" } else { "replacing" };
                    return Err(failure)
                        .with_context(|| format!("{verb} the default route of {table}"));
                }
            }
        }
    }

    /// A route that came to be since the plan was made may be another NAT's, or the way out of
    /// a public subnet.
    async fn check_replaceable(&self, id: &TableId) -> Result<()> {
        let tables = self
            .tables("", &[("route-table-id", &[id.as_str()])])
            .await
            .with_context(|| format!("describing {id}"))?;
        match tables.iter().find_map(Table::internet_gateway) {
            Some(gateway) => bail!("{id}: somebody else made it lead to {gateway}"),
            None => Ok(()),
        }
    }

    async fn replace_default_route(
        &self,
        table: &TableId,
        interface: &InterfaceId,
    ) -> Result<(), Failure> {
        self.client
            .replace_route()
            .route_table_id(table.as_str())
            .destination_cidr_block(DEFAULT)
            .network_interface_id(interface.as_str())
            .send()
            .await?;
        Ok(())
    }

    async fn create_default_route(
        &self,
        table: &TableId,
        interface: &InterfaceId,
    ) -> Result<(), Failure> {
        self.client
            .create_route()
            .route_table_id(table.as_str())
            .destination_cidr_block(DEFAULT)
            .network_interface_id(interface.as_str())
            .send()
            .await?;
        Ok(())
    }
}

fn table(found: &RouteTable, key: &str) -> Result<Table> {
    let id: TableId = found.route_table_id().unwrap_or_default().parse()?;
    let owner = found
        .tags()
        .iter()
        .find(|tag| tag.key() == Some(key))
        .and_then(|tag| tag.value())
        .unwrap_or_default();
    let subnets = found.associations().iter().filter_map(|a| a.subnet_id());
    let default_route = found
        .routes()
        .iter()
        .find(|route| route.destination_cidr_block() == Some(DEFAULT));
    Ok(Table {
        vpc: found.vpc_id().unwrap_or_default().parse()?,
        owner: owner.to_owned(),
        main: found.associations().iter().any(|a| a.main() == Some(true)),
        subnets: subnets
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("the subnets of {id}"))?,
        default_route: default_route
            .map(default_route_of)
            .transpose()
            .with_context(|| format!("the default route of {id}"))?,
        id,
    })
}

fn default_route_of(route: &Route) -> Result<DefaultRoute> {
    let others = [
        route.nat_gateway_id(),
        route.transit_gateway_id(),
        route.gateway_id(),
        route.vpc_peering_connection_id(),
        route.local_gateway_id(),
        route.core_network_arn(),
    ];
    let target = if let Some(id) = route.gateway_id().filter(|id| id.starts_with("igw-")) {
        Target::InternetGateway(id.to_owned())
    } else if let Some(id) = route.carrier_gateway_id() {
        Target::InternetGateway(id.to_owned())
    } else if let Some(id) = others.into_iter().flatten().next() {
        Target::Other(id.to_owned())
    } else {
        Target::Instance {
            instance: route.instance_id().map(str::parse).transpose()?,
            interface: route.network_interface_id().map(str::parse).transpose()?,
        }
    };
    Ok(DefaultRoute {
        target,
        blackhole: route.state() == Some(&RouteState::Blackhole),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(route: aws_sdk_ec2::types::builders::RouteBuilder) -> Target {
        default_route_of(&route.build()).unwrap().target
    }

    #[test]
    fn every_kind_of_target_is_told_apart() {
        let route = Route::builder;
        assert_eq!(
            target(route().gateway_id("igw-1")),
            Target::InternetGateway("igw-1".into())
        );
        assert_eq!(
            target(route().carrier_gateway_id("cagw-1")),
            Target::InternetGateway("cagw-1".into())
        );
        for other in [
            route().nat_gateway_id("x-1"),
            route().transit_gateway_id("x-1"),
            route().gateway_id("x-1"),
            route().vpc_peering_connection_id("x-1"),
            route().local_gateway_id("x-1"),
            route().core_network_arn("x-1"),
        ] {
            assert_eq!(target(other), Target::Other("x-1".into()));
        }
        let interface = "eni-0123456789abcdef0";
        assert_eq!(
            target(route().network_interface_id(interface)),
            Target::Instance {
                instance: None,
                interface: Some(interface.parse().unwrap())
            }
        );
    }

    #[test]
    fn garbled_ids_are_refused() {
        let route = Route::builder().network_interface_id("eni-<script>");
        assert!(default_route_of(&route.build()).is_err());
        assert!(table(&RouteTable::builder().vpc_id("vpc-01234567").build(), "k").is_err());
    }
}
