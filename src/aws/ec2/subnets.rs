//! What EC2 says of a VPC's subnets.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aws_sdk_ec2::types::Subnet as Found;
use hanat_core::ids::{SubnetId, VpcId};
use hanat_core::routes::answers::Subnet;

use super::{Ec2, filter};
use crate::aws::clients::Failure;
use crate::aws::lists::List;

/// Of `DescribeSubnets` (EC2 API reference: 5 to 1000).
const PAGE: i32 = 100;

impl Ec2 {
    /// Every subnet of the VPC, all pages.
    pub async fn subnets(&self, vpc: &VpcId) -> Result<Vec<Subnet>> {
        let (found, tables) = tokio::try_join!(self.described_subnets(vpc), self.vpc_tables(vpc))?;
        let tables = tables.iter().flat_map(|table| &table.subnets);
        let with_table: BTreeSet<&SubnetId> = tables.collect();
        let parse = |found| {
            let mut subnet = subnet(found)?;
            subnet.has_table = with_table.contains(&subnet.id);
            Ok(subnet)
        };
        let troubles = &self.troubles;
        let subnets = List::read(&found, "subnet", Found::subnet_id, parse, troubles);
        Ok(subnets.into_iter().collect())
    }

    async fn described_subnets(&self, vpc: &VpcId) -> Result<Vec<Found>> {
        let mut pages = self
            .client
            .describe_subnets()
            .filters(filter("vpc-id", &[vpc.as_str()]))
            .max_results(PAGE)
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(Failure::from);
            let page = page.with_context(|| format!("describing the subnets of {vpc}"))?;
            found.extend(page.subnets.unwrap_or_default());
        }
        Ok(found)
    }
}

/// One for IPv6 only has no block.
fn subnet(found: &Found) -> Result<Subnet> {
    let id: SubnetId = found.subnet_id().unwrap_or_default().parse()?;
    let block = found.cidr_block().filter(|block| !block.is_empty());
    let block = block.map(str::parse).transpose();
    Ok(Subnet {
        block: block.with_context(|| format!("the block of {id}"))?,
        has_table: false,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(id: &str, block: Option<&str>) -> Result<Subnet> {
        let found = Found::builder().subnet_id(id);
        subnet(&found.set_cidr_block(block.map(str::to_owned)).build())
    }

    #[test]
    fn a_subnet_may_be_for_ipv6_only() {
        let id = "subnet-00000000000000001";
        let block = "10.0.1.0/24".parse().unwrap();
        assert_eq!(parsed(id, Some("10.0.1.0/24")).unwrap().block, Some(block));
        for none in [None, Some("")] {
            assert_eq!(parsed(id, none).unwrap().block, None);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        let error = parsed("subnet-00000000000000001", Some("10.0.1.0/33")).unwrap_err();
        assert!(error.to_string().contains("subnet-00000000000000001"));
        assert!(parsed("", None).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(id: String, block: Option<String>) {
            let _ = parsed(&id, block.as_deref());
        }
    }
}
