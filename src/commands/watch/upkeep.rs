//! Puts back what somebody undid: the kernel's rules and settings, and the source/destination check.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{STEP_TIME, Watch};
use crate::kernel;

impl Watch<'_> {
    /// Looks again and again, for ever.
    pub(super) async fn keep_up(&self) {
        let mut warned = BTreeSet::new();
        loop {
            sleep(self.settings.upkeep_interval).await;
            self.attempt("keeping the kernel a NAT", self.keep_kernel(&mut warned))
                .await;
            self.attempt(
                "keeping the source/destination check off",
                self.keep_check(),
            )
            .await;
        }
    }

    async fn attempt(&self, what: &str, step: impl Future<Output = Result<()>>) {
        let done = self.session.within(STEP_TIME, step).await;
        self.session.troubles.tell(what, done);
    }

    /// The VPC may have got blocks since. `warned` are the warnings that were given and still hold.
    async fn keep_kernel(&self, warned: &mut BTreeSet<String>) -> Result<()> {
        let network = self.session.metadata.network().await?;
        let kernel = self.settings.claim.kernel.clone();
        let prepare = move || {
            let (mac, addresses) = (network.mac, &network.private_addresses);
            kernel::prepare(&kernel, mac, addresses, &network.vpc_cidr_blocks, false)
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let prepared = prepared.context("setting the kernel up")??;
        for change in &prepared.changes {
            tracing::warn!("put back: {change}");
        }
        let elsewhere = prepared.answers_elsewhere.iter();
        let elsewhere = elsewhere.map(|clients| format!("answers to {} {clients}", clients.block));
        let warnings: Vec<String> = prepared.warnings.iter().cloned().chain(elsewhere).collect();
        warned.retain(|warning| warnings.contains(warning));
        for warning in &warnings {
            if warned.insert(warning.clone()) {
                tracing::warn!("{warning}");
            }
        }
        prepared.ready().map(drop)
    }

    async fn keep_check(&self) -> Result<()> {
        let (ec2, interface) = (&self.session.ec2, &self.nat.interface);
        if ec2.source_dest_check(interface).await? {
            ec2.disable_source_dest_check(interface).await?;
            tracing::warn!("put back: source/destination check of {interface} turned off");
        }
        Ok(())
    }
}
