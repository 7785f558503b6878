//! `hanat claim`: the run, in the order of its steps. Whatever AWS or the user does to it, it
//! ends in `conclude`, so that a hook that waits gets its answer.

mod conclude;
mod limits;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::autoscaling::{AutoScaling, Launch, choose_hook};
use crate::aws::Clients;
use crate::config::{self, Settings};
use crate::ec2::Ec2;
use crate::egress;
use crate::http;
use crate::identity::{Instance, Metadata, TargetState};
use crate::report::{Lifecycle, Outcome, Report, Row};
use crate::routes::{self, ANY, Nat, Step, Table};
use crate::troubles::Troubles;

use limits::Limits;

/// Runs the claim. What went wrong is in the report, too.
pub async fn run(settings: &Settings) -> Report {
    let mut report = Report::new(&settings.owner_tag, settings.dry_run);
    report.error = claim(settings, &mut report).await.err();
    report
}

async fn claim(settings: &Settings, report: &mut Report) -> Result<()> {
    let troubles = Troubles::default();
    let mut limits = Limits::new(settings.work_time, troubles.clone())?;

    // Who am I? Nothing can be answered before that is known.
    let client = http::client()?;
    let aws_http = http::for_aws(client.clone());
    let metadata = Metadata::new(aws_http.clone(), troubles.clone());
    let instance = limits.bound(metadata.instance()).await?;
    report.instance = Some(instance.clone());

    // The work, until it is done, the time is up or someone stops it.
    let clients = Clients::new(aws_http, &instance.region, &troubles).await;
    let run = Run {
        settings,
        troubles,
        http: client,
        metadata,
        ec2: Ec2::new(clients.ec2),
        autoscaling: AutoScaling::new(clients.autoscaling),
        instance,
        launch: OnceCell::new(),
    };
    let worked = limits.bound(run.work(report)).await;
    if settings.dry_run {
        return worked;
    }

    // The answer to the hook, from what is known by now.
    let concluded = timeout(settings.answer_time, run.conclude(&worked, report)).await;
    let concluded = concluded
        .unwrap_or_else(|_| Err(anyhow!("no time is left ({})", run.troubles)))
        .context("answering the lifecycle hook");
    if concluded.is_err() {
        report.unanswered = true;
    }
    match (worked, concluded) {
        (Err(first), Err(second)) => Err(anyhow!("{first:#}; and {second:#}")),
        (worked, concluded) => worked.and(concluded),
    }
}

struct Run<'a> {
    settings: &'a Settings,
    troubles: Troubles,
    http: reqwest::Client,
    metadata: Metadata,
    ec2: Ec2,
    autoscaling: AutoScaling,
    instance: Instance,
    /// What the group says: read once, or again when that read was cut short or failed.
    launch: OnceCell<Option<Launch>>,
}

impl Run<'_> {
    async fn work(&self, report: &mut Report) -> Result<()> {
        let (launch, prepared) = tokio::join!(self.launch(), self.prepare(report));
        let prepared = prepared?;
        let launch = match launch {
            // Nothing waits for an instance that is in no group, and asking may not be allowed.
            Err(error) if report.is_outside_group() => {
                tracing::warn!("{error:#}; IMDS says that this instance is in no group");
                self.launch.get_or_init(async || None).await.as_ref()
            }
            launch => launch?,
        };
        if let Some(launch) = launch {
            report.lifecycle = Some(Lifecycle {
                launch: launch.clone(),
                answered: None,
            });
            choose_hook(&launch.hooks, self.settings.lifecycle_hook.as_deref())?;
        }
        let Some((nat, steps)) = prepared.filter(|_| !launch.is_some_and(|l| l.state.warmed()))
        else {
            tracing::info!("on the way into the warm pool: nothing is claimed");
            return Ok(());
        };
        if steps.is_empty() && !self.settings.allow_none {
            bail!(
                "no route table of {} is tagged {key}={} or {key}={ANY}",
                nat.vpc,
                nat.zone,
                key = self.settings.owner_tag
            );
        }
        report.rows = steps.into_iter().map(Row::new).collect();
        if !self.settings.dry_run {
            self.apply(&nat, report).await;
            self.verify(&nat, report).await?;
        }
        report.verdict()
    }

    /// Where am I, can I forward, what is there to claim? As much as possible at the same
    /// time. `None` in the warm pool.
    async fn prepare(&self, report: &mut Report) -> Result<Option<(Nat, Vec<Step>)>> {
        let network = self.metadata.network().await?;
        let warmed = network.target_lifecycle_state == Some(TargetState::Warmed);
        let nat = Nat::new(&self.instance, &network);
        tracing::info!("{} in {} of {}", nat.instance, nat.zone, nat.vpc);
        report.network = Some(network);
        if warmed {
            return Ok(None);
        }
        let egress = egress::answered(&self.http, &self.settings.probe_urls, &self.troubles);
        let (tables, subnet_table, check_was_on, ()) = tokio::try_join!(
            self.tables(&nat),
            self.ec2.subnet_table(&nat.subnet),
            self.ready_interface(&nat),
            async {
                egress.await;
                Ok(())
            }
        )?;
        report.check_was_on = Some(check_was_on);
        let steps = routes::plan(tables, &nat, subnet_table.as_ref());
        Ok(Some((nat, steps)))
    }

    async fn tables(&self, nat: &Nat) -> Result<Vec<Table>> {
        let owners = [ANY, nat.zone.as_str()];
        self.ec2
            .tagged_tables(&nat.vpc, &self.settings.owner_tag, &owners)
            .await
    }

    /// Turns the source/destination check off where it is on; says whether it was.
    async fn ready_interface(&self, nat: &Nat) -> Result<bool> {
        let on = self.ec2.source_dest_check(&nat.interface).await?;
        if on && !self.settings.dry_run {
            self.ec2.disable_source_dest_check(&nat.interface).await?;
            tracing::info!("source/destination check of {} turned off", nat.interface);
        }
        Ok(on)
    }

    /// Several tables at once. A failure is that table's own.
    async fn apply(&self, nat: &Nat, report: &mut Report) {
        let calls = report.changes().into_iter();
        let calls = calls.map(|(row, table, action)| async move {
            let done = self
                .ec2
                .point_default_route(&table, &action, &nat.interface);
            (row, done.await)
        });
        let mut calls = stream::iter(calls).buffer_unordered(config::ROUTE_CALLS_IN_FLIGHT);
        while let Some((row, done)) = calls.next().await {
            let row = &mut report.rows[row];
            row.outcome = match done {
                Ok(()) => Outcome::Accepted,
                Err(error) => Outcome::Failed(format!("{error:#}")),
            };
            tracing::debug!("{}: {}", row.table.id, row.outcome.name());
        }
    }

    /// Reads back until EC2 shows what it accepted.
    async fn verify(&self, nat: &Nat, report: &mut Report) -> Result<()> {
        let mut check_is_on = report.check_was_on == Some(true);
        let mut wait = config::VERIFY_INTERVAL;
        while check_is_on || !report.is_settled() {
            (check_is_on, ()) = tokio::try_join!(
                async {
                    if check_is_on {
                        self.ec2.source_dest_check(&nat.interface).await
                    } else {
                        Ok(false)
                    }
                },
                self.look(nat, report)
            )
            .context("reading back")?;
            if check_is_on {
                let still = format!(
                    "{} still has its source/destination check on",
                    nat.interface
                );
                self.troubles.note("reading back", still);
            } else if !report.is_settled() {
                self.troubles.note("reading back", report.unsettled());
            } else {
                break;
            }
            sleep(wait).await;
            wait = (wait * 2).min(config::MAX_VERIFY_INTERVAL);
        }
        Ok(())
    }

    /// One look at what the tables show now.
    async fn look(&self, nat: &Nat, report: &mut Report) -> Result<()> {
        let tables = self.tables(nat).await?;
        for row in &mut report.rows {
            row.settle(tables.iter().find(|table| table.id == row.table.id), nat);
        }
        Ok(())
    }

    async fn launch(&self) -> Result<Option<&Launch>> {
        let launch = self
            .launch
            .get_or_try_init(|| self.autoscaling.launch(&self.instance.instance_id));
        Ok(launch.await?.as_ref())
    }
}
