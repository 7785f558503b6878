//! What EC2 answers of route tables, in this project's types.

use anyhow::{Context, Result};
use aws_sdk_ec2::types::{Route, RouteState, RouteTable};

use super::DEFAULT;
use crate::ids::TableId;
use crate::routes::{DefaultRoute, Table, Target};

/// `key` is the owner tag's.
pub(super) fn table(found: &RouteTable, key: &str) -> Result<Table> {
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
