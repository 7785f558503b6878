//! EC2: route tables and the interface's source/destination check, in this project's types.

mod change;
mod parse;
mod subnets;
mod successors;

use anyhow::{Context, Result, anyhow};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{AttributeBooleanValue, Filter, NetworkInterface};
use hanat_core::ids::{InterfaceId, SubnetId, TableId, VpcId};
use hanat_core::routes::Table;

use crate::aws::clients::Failure;
use crate::aws::lists::List;
use crate::aws::pace::Pace;
use crate::aws::patience::Patience;
use crate::aws::troubles::Troubles;

pub use successors::{Gateway, Interface, Status, status_of};

const DEFAULT: &str = "0.0.0.0/0";

/// The largest page that `DescribeRouteTables` gives (EC2 API reference: 5 to 100).
const PAGE: i32 = 100;

/// Calls that change routes, burst and refill a second. EC2's bucket holds 50 and refills 5 a
/// second for each account, region and call (EC2 API reference, "Request throttling"). A few
/// are left over, because calls may arrive closer together than they were sent.
pub const ROUTE_CALLS: (f64, f64) = (45.0, 5.0);

/// The EC2 calls this program makes.
#[derive(Debug)]
pub struct Ec2 {
    client: Client,
    patience: Patience,
    pace: Pace,
    /// Where what is odd in an answer is named.
    troubles: Troubles,
}

impl Ec2 {
    /// Calls nothing yet. `patience` is the one that the client has.
    pub fn new(client: Client, patience: Patience, troubles: Troubles) -> Self {
        let pace = Pace::new(ROUTE_CALLS);
        Self {
            client,
            patience,
            pace,
            troubles,
        }
    }

    /// Every route table of the VPC that has the tag `key`, all pages. Reads are eventually
    /// consistent.
    pub async fn owned_tables(&self, vpc: &VpcId, key: &str) -> Result<List<Table>> {
        let filters = [("vpc-id", &[vpc.as_str()][..]), ("tag-key", &[key])];
        self.tables(key, &filters)
            .await
            .with_context(|| format!("describing the route tables of {vpc}"))
    }

    /// Every route table of the VPC, all pages.
    async fn vpc_tables(&self, vpc: &VpcId) -> Result<List<Table>> {
        self.tables("", &[("vpc-id", &[vpc.as_str()])])
            .await
            .with_context(|| format!("describing the route tables of {vpc}"))
    }

    /// One table, if it is there.
    pub async fn table(&self, id: &TableId) -> Result<Option<Table>> {
        let tables = self.tables("", &[("route-table-id", &[id.as_str()])]).await;
        tables
            .and_then(|tables| tables.one(|table| table.id == *id))
            .with_context(|| format!("describing {id}"))
    }

    /// The table that is associated with a subnet by name. Without one, the VPC's main table
    /// serves it.
    pub async fn subnet_table(&self, subnet: &SubnetId) -> Result<Option<TableId>> {
        let filters = [("association.subnet-id", &[subnet.as_str()][..])];
        let tables = self.tables("", &filters).await;
        let table = tables
            .and_then(|tables| tables.one(|_| true))
            .with_context(|| format!("describing the route table of {subnet}"))?;
        Ok(table.map(|table| table.id))
    }

    /// All pages of what the filters (name, values) let through, with the values of tag `key`.
    async fn tables(&self, key: &str, filters: &[(&str, &[&str])]) -> Result<List<Table>> {
        let filters = filters.iter().map(|(name, values)| filter(name, values));
        let mut pages = self
            .client
            .describe_route_tables()
            .set_filters(Some(filters.collect()))
            .max_results(PAGE)
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(Failure::from)?;
            found.extend(page.route_tables.unwrap_or_default());
        }
        Ok(parse::tables(&found, key, &self.troubles))
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
        let mut found = answer.network_interfaces().iter();
        found
            .find(|found| found.network_interface_id() == Some(interface.as_str()))
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
}

fn filter(name: &str, values: &[&str]) -> Filter {
    let values = values.iter().map(|&value| value.to_owned()).collect();
    Filter::builder()
        .name(name)
        .set_values(Some(values))
        .build()
}
