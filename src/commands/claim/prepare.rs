//! What a claim looks at before it takes a route, and what it makes ready: the kernel, the interface,
//! the plan.

use std::time::Instant;

use anyhow::{Context, Result};
use hanat_core::ids::TableId;
use hanat_core::routes::answers::Answers;
use hanat_core::routes::{self, Nat, Step, Table};

use super::Run;
use crate::aws::imds::Network;
use crate::aws::lists::List;
use crate::commands::claim::report::Report;
use crate::kernel::{self, Prepared};
use crate::probes::egress;

impl Run<'_> {
    /// Where am I, what is there to claim, can I forward?
    pub(super) async fn prepare(
        &self,
        report: &mut Report,
    ) -> Result<(Nat, Vec<Step>, Result<()>)> {
        let metadata = &self.session.metadata;
        let (network, target) = tokio::try_join!(metadata.network(), metadata.target_state())?;
        if target.is_none() {
            self.session.autoscaling.expect_no_group();
        }
        report.target_state = target;
        let nat = network.nat(&self.session.instance);
        tracing::info!("{} in {} of {}", nat.instance, nat.zone, nat.vpc);
        report.common.network = Some(network.clone());
        let mover = self.mover(&nat);
        let egress = egress::answered(
            &self.session.http,
            &self.settings.probe_urls,
            &self.session.troubles,
        );
        let (kernel, tables, subnet_table, check_was_on, ()) = tokio::try_join!(
            async {
                match self.ready_kernel(&network).await {
                    Err(error) if !self.settings.dry_run => Err(error),
                    // What would become of the tables is worth knowing all the same.
                    kernel => Ok(kernel),
                }
            },
            mover.tables(),
            self.session.ec2.subnet_table(&nat.subnet),
            self.ready_interface(&nat),
            async {
                egress.await;
                Ok(())
            }
        )?;
        let kernel = kernel.map(|prepared| report.kernel = Some(prepared));
        report.check_was_on = Some(check_was_on);
        report.check_is_on = check_was_on;
        let answers = self.answers(&nat, report.kernel.as_ref()).await;
        let steps = self.plan(&tables, &nat, subnet_table.as_ref(), &answers, report);
        Ok((nat, steps, kernel))
    }

    /// What to do with the tables that are ours, and what to tell of any.
    fn plan(
        &self,
        tables: &List<Table>,
        nat: &Nat,
        subnet_table: Option<&TableId>,
        answers: &Answers,
        report: &mut Report,
    ) -> Vec<Step> {
        let ours = tables.iter().filter(|table| nat.may_claim(table));
        let steps = routes::plan(
            ours.cloned().collect(),
            nat,
            subnet_table,
            self.settings.replaces_endpoints,
            answers,
        );
        let (key, region) = (&self.settings.owner_tag, &self.session.instance.region);
        report.warnings = routes::warnings(tables, &steps, key, region);
        for warning in &report.warnings {
            tracing::warn!("{warning}");
        }
        report.common.odd_tables = tables.odd().to_vec();
        steps
    }

    /// Where answers to the VPC's clients go. It takes another call only in the odd case.
    async fn answers(&self, nat: &Nat, kernel: Option<&Prepared>) -> Answers {
        let clients = kernel.map_or(&[][..], |kernel| &kernel.answers_elsewhere);
        if clients.is_empty() {
            return Answers::ByTheInterface;
        }
        for lost in clients {
            tracing::info!("answers to {} {lost}", lost.block);
        }
        let subnets = self.session.ec2.subnets(&nat.vpc).await;
        Answers::Elsewhere {
            clients: clients.to_vec(),
            subnets: subnets.map_err(|error| format!("{error:#}")),
        }
    }

    /// Makes the kernel a NAT, on a thread of its own: the calls go on meanwhile.
    async fn ready_kernel(&self, network: &Network) -> Result<Prepared> {
        let kernel = self.settings.kernel.clone();
        let (mac, addresses) = (network.mac, network.private_addresses.clone());
        let vpc = network.vpc_cidr_blocks.clone();
        let dry_run = self.settings.dry_run;
        let prepare = move || {
            let started = Instant::now();
            let prepared = kernel::prepare(&kernel, mac, &addresses, &vpc, dry_run);
            prepared.map(|prepared| (prepared, started.elapsed()))
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let (prepared, took) = prepared.context("setting the kernel up")??;
        for warning in &prepared.warnings {
            tracing::warn!("{warning}");
        }
        let prepared = prepared.ready()?;
        if !dry_run {
            tracing::info!(
                "{} forwards and masquerades, {} changes in {:.1} ms",
                prepared.interface,
                prepared.changes.len(),
                took.as_secs_f64() * 1e3
            );
        }
        Ok(prepared)
    }

    /// Turns the source/destination check off where it is on; says whether it was.
    async fn ready_interface(&self, nat: &Nat) -> Result<bool> {
        let on = self.session.ec2.source_dest_check(&nat.interface).await?;
        if on && !self.settings.dry_run {
            self.session
                .ec2
                .disable_source_dest_check(&nat.interface)
                .await?;
            tracing::info!("source/destination check of {} turned off", nat.interface);
        }
        Ok(on)
    }
}
