//! What EC2 answers of route tables, in this project's types. A part of a table that cannot be
//! understood is left out of it, and hides neither the rest nor other tables.

use anyhow::Result;
use aws_sdk_ec2::types::{Route, RouteOrigin, RouteState, RouteTable};
use hanat_core::ids::{SubnetId, TableId, shown};
use hanat_core::routes::{DefaultRoute, Table, Target};
use ipnet::Ipv4Net;

use super::DEFAULT;
use crate::aws::lists::List;
use crate::aws::troubles::Troubles;

/// Of the routes beside the default one, those for so much of the Internet are told of: 0.0.0.0/1
/// and 128.0.0.0/1 are how some override it. No VPC's or company's own network is that large.
const LARGE: u8 = 7;

/// All of them, each once. `key` is the owner tag's.
pub(super) fn tables(found: &[RouteTable], key: &str, troubles: &Troubles) -> List<Table> {
    let parse = |found| table(found, key, troubles);
    List::read(
        found,
        "route table",
        RouteTable::route_table_id,
        parse,
        troubles,
    )
}

fn table(found: &RouteTable, key: &str, troubles: &Troubles) -> Result<Table> {
    let id: TableId = found.route_table_id().unwrap_or_default().parse()?;
    let owner = found
        .tags()
        .iter()
        .find(|tag| tag.key() == Some(key))
        .and_then(|tag| tag.value())
        .unwrap_or_default();
    // Others are gateways', or make it the main table.
    let associations = found.associations().iter();
    let subnets: Vec<&str> = associations.filter_map(|a| a.subnet_id()).collect();
    let subnets: List<SubnetId> = List::read(
        &subnets,
        &format!("an association of {id} with the subnet"),
        |subnet| Some(*subnet),
        |subnet| Ok(subnet.parse()?),
        troubles,
    );
    Ok(Table {
        vpc: found.vpc_id().unwrap_or_default().parse()?,
        owner: owner.to_owned(),
        main: found.associations().iter().any(|a| a.main() == Some(true)),
        subnets: subnets.into_iter().collect(),
        default_route: default_route(found.routes()),
        larger_parts: larger_parts(found.routes()),
        id,
    })
}

/// The static one counts, wherever it stands in the list: it wins over one that is propagated.
fn default_route(routes: &[Route]) -> Option<DefaultRoute> {
    let found = routes.iter();
    let found = found.filter(|route| route.destination_cidr_block() == Some(DEFAULT));
    let found = found.map(|route| DefaultRoute {
        target: target(route),
        blackhole: route.state() == Some(&RouteState::Blackhole),
        propagated: is_propagated(route),
    });
    found.min_by_key(|route| route.propagated)
}

/// By a virtual private gateway, or a route server. What does not say so is static.
fn is_propagated(route: &Route) -> bool {
    matches!(
        route.origin(),
        Some(RouteOrigin::EnableVgwRoutePropagation | RouteOrigin::Advertisement)
    )
}

fn larger_parts(routes: &[Route]) -> Vec<(Ipv4Net, Target)> {
    let parts = routes.iter().filter_map(|route| {
        let to: Ipv4Net = route.destination_cidr_block()?.parse().ok()?;
        (1..=LARGE)
            .contains(&to.prefix_len())
            .then(|| (to, target(route)))
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|(to, _)| *to);
    parts.dedup();
    parts
}

/// One of a form that nobody knows is a text, which is nobody's.
fn target(route: &Route) -> Target {
    let others = [
        route.nat_gateway_id(),
        route.transit_gateway_id(),
        route.gateway_id(),
        route.vpc_peering_connection_id(),
        route.local_gateway_id(),
        route.core_network_arn(),
        route.egress_only_internet_gateway_id(),
        route.odb_network_arn(),
    ];
    if let Some(id) = route.gateway_id().filter(|id| id.starts_with("igw-")) {
        return Target::InternetGateway(shown(id));
    }
    if let Some(id) = route.carrier_gateway_id() {
        return Target::InternetGateway(shown(id));
    }
    if let Some(id) = route.gateway_id().filter(|id| id.starts_with("vpce-")) {
        return Target::Endpoint(shown(id));
    }
    if let Some(id) = others.into_iter().flatten().next() {
        return Target::Other(shown(id));
    }
    instance(route).unwrap_or_else(|| {
        let id = route.network_interface_id().or(route.instance_id());
        Target::Other(id.map_or_else(|| "unknown".to_owned(), shown))
    })
}

/// By its interface, which decides, or by its instance alone.
fn instance(route: &Route) -> Option<Target> {
    let interface = route.network_interface_id();
    let interface = interface.map(str::parse).transpose().ok()?;
    let instance = route.instance_id().and_then(|id| id.parse().ok());
    (interface.is_some() || instance.is_some()).then_some(Target::Instance {
        instance,
        interface,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::builders::RouteBuilder;
    use aws_sdk_ec2::types::{RouteTableAssociation, Tag};
    use proptest::prelude::*;

    use super::*;
    use crate::aws::lists::tests::odd_text;

    const INTERFACE: &str = "eni-0123456789abcdef0";

    fn read(found: &[RouteTable]) -> List<Table> {
        tables(found, "NATAZ", &Troubles::default())
    }

    fn to(route: RouteBuilder) -> Target {
        target(&route.build())
    }

    fn by_default(route: RouteBuilder) -> Route {
        route.destination_cidr_block(DEFAULT).build()
    }

    #[test]
    fn every_kind_of_target_is_told_apart() {
        let route = Route::builder;
        assert_eq!(
            to(route().gateway_id("igw-1")),
            Target::InternetGateway("igw-1".into())
        );
        assert_eq!(
            to(route().carrier_gateway_id("cagw-1")),
            Target::InternetGateway("cagw-1".into())
        );
        assert_eq!(
            to(route().gateway_id("vpce-1")),
            Target::Endpoint("vpce-1".into())
        );
        for other in [
            route().nat_gateway_id("x-1"),
            route().transit_gateway_id("x-1"),
            route().gateway_id("x-1"),
            route().vpc_peering_connection_id("x-1"),
            route().local_gateway_id("x-1"),
            route().core_network_arn("x-1"),
            route().odb_network_arn("x-1"),
        ] {
            assert_eq!(to(other), Target::Other("x-1".into()));
        }
        assert_eq!(
            to(route().network_interface_id(INTERFACE)),
            Target::Instance {
                instance: None,
                interface: Some(INTERFACE.parse().unwrap())
            }
        );
    }

    #[test]
    fn a_target_of_an_unknown_form_is_nobodys() {
        let route = Route::builder;
        assert_eq!(to(route()), Target::Other("unknown".into()));
        assert_eq!(
            to(route()
                .network_interface_id("eni-<script>")
                .instance_id("i-01234567")),
            Target::Other("\"eni-<script>\"".into())
        );
        assert_eq!(
            to(route().network_interface_id(INTERFACE).instance_id("mi-1")),
            to(route().network_interface_id(INTERFACE))
        );
    }

    #[test]
    fn the_static_route_counts_in_either_order() {
        let propagated = by_default(
            Route::builder()
                .gateway_id("vgw-1")
                .origin(RouteOrigin::EnableVgwRoutePropagation),
        );
        let own = by_default(
            Route::builder()
                .network_interface_id(INTERFACE)
                .origin(RouteOrigin::CreateRoute),
        );
        for routes in [
            [propagated.clone(), own.clone()],
            [own.clone(), propagated.clone()],
        ] {
            let route = default_route(&routes).unwrap();
            assert_eq!(route.to_string(), INTERFACE);
        }
        let alone = default_route(&[propagated]).unwrap();
        assert_eq!(alone.to_string(), "vgw-1 (propagated)");
    }

    #[test]
    fn routes_for_large_parts_are_told_of() {
        let to = |block: &str| {
            let route = Route::builder().destination_cidr_block(block);
            route.transit_gateway_id("tgw-1").build()
        };
        let routes = [
            "128.0.0.0/1",
            "10.0.0.0/8",
            DEFAULT,
            "0.0.0.0/1",
            "0.0.0.0/1",
            "x",
        ];
        let parts = larger_parts(&routes.map(to));
        let parts: Vec<String> = parts.iter().map(|(to, _)| to.to_string()).collect();
        assert_eq!(parts, ["0.0.0.0/1", "128.0.0.0/1"]);
    }

    fn good(n: usize) -> RouteTable {
        RouteTable::builder()
            .route_table_id(format!("rtb-{n:08x}"))
            .vpc_id("vpc-01234567")
            .associations(
                RouteTableAssociation::builder()
                    .subnet_id("subnet-01234567")
                    .build(),
            )
            .tags(Tag::builder().key("NATAZ").value("any").build())
            .routes(by_default(Route::builder().network_interface_id(INTERFACE)))
            .build()
    }

    prop_compose! {
        fn odd_route()(
            texts in proptest::collection::vec(odd_text(), 12),
            is_default: bool,
        ) -> Route {
            let text = |n: usize| texts[n].clone();
            let to = if is_default { Some(DEFAULT.to_owned()) } else { text(0) };
            Route::builder()
                .set_destination_cidr_block(to)
                .set_gateway_id(text(1))
                .set_instance_id(text(2))
                .set_network_interface_id(text(3))
                .set_nat_gateway_id(text(4))
                .set_transit_gateway_id(text(5))
                .set_core_network_arn(text(6))
                .set_odb_network_arn(text(7))
                .set_carrier_gateway_id(text(8))
                .set_origin(text(9).map(|text| RouteOrigin::from(text.as_str())))
                .set_state(text(10).map(|text| RouteState::from(text.as_str())))
                .set_vpc_peering_connection_id(text(11))
                .build()
        }
    }

    prop_compose! {
        fn odd_table()(
            texts in proptest::collection::vec(odd_text(), 5),
            is_named: bool,
            routes in proptest::collection::vec(odd_route(), 0..4),
        ) -> RouteTable {
            let text = |n: usize| texts[n].clone();
            let id = if is_named { Some("rtb-ffffffff".to_owned()) } else { text(0) };
            let association = RouteTableAssociation::builder().set_subnet_id(text(2)).build();
            RouteTable::builder()
                .set_route_table_id(id)
                .set_vpc_id(text(1))
                .associations(association)
                .tags(Tag::builder().set_key(text(3)).set_value(text(4)).build())
                .set_routes(Some(routes))
                .build()
        }
    }

    proptest! {
        #[test]
        fn an_odd_table_hides_no_other(odd in proptest::collection::vec(odd_table(), 0..6)) {
            let mut found = odd;
            found.insert(found.len() / 2, good(1));
            found.extend([good(2), good(1)]);
            let list = read(&found);
            let good: Vec<_> = list.iter().filter(|table| table.owner == "any").collect();
            prop_assert_eq!(good.len(), 2);
            for table in good {
                prop_assert_eq!(table.subnets.len(), 1);
                let route = table.default_route.as_ref().unwrap();
                prop_assert_eq!(route.to_string(), INTERFACE);
            }
        }

        #[test]
        fn an_odd_part_hides_nothing_of_its_table(
            routes in proptest::collection::vec(odd_route(), 0..4),
            subnet in odd_text(),
        ) {
            let association = RouteTableAssociation::builder().set_subnet_id(subnet).build();
            let mut table = good(1);
            let own = table.routes.clone().unwrap_or_default();
            table.routes = Some([own, routes].concat());
            table.associations.get_or_insert_default().insert(0, association);
            let list = read(&[table]);
            prop_assert_eq!(list.len(), 1);
            prop_assert_eq!(list[0].subnets.len(), 1);
            prop_assert_eq!(list[0].default_route.as_ref().unwrap().to_string(), INTERFACE);
        }
    }
}
