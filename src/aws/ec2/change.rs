//! The calls that change routes, inside EC2's request buckets.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_config::retry::RetryConfig;
use aws_sdk_ec2::config::Builder;
use aws_sdk_ec2::operation::replace_route::builders::ReplaceRouteFluentBuilder;
use hanat_core::ids::TableId;
use hanat_core::routes::{NextHop, Table};
use tokio::time::{Instant, sleep};

use super::{DEFAULT, Ec2};
use crate::aws::clients::{Failure, Kind};
use crate::aws::clients::{INITIAL_BACKOFF, MAX_BACKOFF};

/// How old a table may be that is changed because of what it showed, from when it was asked for.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// How often creating and replacing may each find that the other was right, while another NAT
/// acts on the same table, before it is reported.
const TURNS: usize = 4;

impl Ec2 {
    /// Points the default route of a table somewhere; `create`: it has none yet. Another NAT may create
    /// one at the same moment, or a person delete it: whichever call turns out to be wrong, the
    /// other one is made. `replaces_endpoints`: also what leads to one by then.
    pub async fn point_default_route(
        &self,
        table: &TableId,
        create: bool,
        to: &NextHop,
        replaces_endpoints: bool,
    ) -> Result<()> {
        let mut create = create;
        let mut turns = 0;
        let mut absences = 0;
        loop {
            self.pace.turn().await;
            let done = if create {
                self.create_default_route(table, to).await
            } else {
                let replaced = self.replace_route(table, to).send().await;
                replaced.map(drop).map_err(Failure::from)
            };
            let Err(failure) = done else { return Ok(()) };
            let may_turn = turns + 1 < TURNS;
            match failure.kind() {
                Kind::NoSuchTable if self.is_only_not_known_yet(table).await => {
                    sleep(backoff(absences)).await;
                    absences += 1;
                }
                Kind::NoSuchRoute if may_turn => {
                    turns += 1;
                    create = true;
                }
                Kind::RouteExists if may_turn => {
                    self.check_replaceable(table, replaces_endpoints).await?;
                    turns += 1;
                    create = false;
                }
                // In whatever words: it is propagated, or gone.
                Kind::Other if may_turn && !create && self.lacks_static_route(table).await => {
                    turns += 1;
                    create = true;
                }
                _ => {
                    let verb = if create { "creating" } else { "replacing" };
                    return Err(failure)
                        .with_context(|| format!("{verb} the default route of {table}"));
                }
            }
        }
    }

    /// A table that is not known where routes are changed, but is where they are read, will be.
    async fn is_only_not_known_yet(&self, table: &TableId) -> bool {
        self.patience.left().is_some() && matches!(self.table(table).await, Ok(Some(_)))
    }

    async fn lacks_static_route(&self, table: &TableId) -> bool {
        let now = self.table(table).await;
        matches!(now, Ok(Some(now)) if now.lacks_static_route())
    }

    /// Points the default route of a table that leads to `from` at `to`. It is read again right
    /// before each attempt, those after a failure included: what leads elsewhere by then is
    /// somebody else's. Says whether it was (or had been) changed.
    pub async fn move_default_route(
        &self,
        table: &TableId,
        from: &NextHop,
        to: &NextHop,
    ) -> Result<bool> {
        let mut attempts = 0;
        loop {
            self.pace.turn().await;
            let Some(now) = self.fresh_table(table).await? else {
                return Ok(false);
            };
            if !from.holds(&now) {
                // An attempt may have worked whose answer did not arrive.
                return Ok(attempts > 0 && to.holds(&now));
            }
            let once = Builder::new().retry_config(RetryConfig::disabled());
            let call = self.replace_route(table, to).customize();
            let done = call.config_override(once).send().await;
            match done.map_err(Failure::from) {
                Ok(_) => return Ok(true),
                Err(failure) if failure.kind() == Kind::Passing => sleep(backoff(attempts)).await,
                Err(failure) => {
                    return Err(failure)
                        .with_context(|| format!("replacing the default route of {table}"));
                }
            }
            attempts += 1;
        }
    }

    /// An instance that stood still for a while finds an answer from before that waiting for it.
    async fn fresh_table(&self, id: &TableId) -> Result<Option<Table>> {
        for _ in 1..TURNS {
            let asked = Instant::now();
            let table = self.table(id).await?;
            if asked.elapsed() < STALE_AFTER {
                return Ok(table);
            }
        }
        self.table(id).await
    }

    /// A route that came to be since the plan was made may be another NAT's, the way out of a
    /// public subnet, or the way through a firewall.
    async fn check_replaceable(&self, id: &TableId, replaces_endpoints: bool) -> Result<()> {
        let table = self.table(id).await?;
        let refusal = table.and_then(|table| table.must_keep(replaces_endpoints));
        refusal.map_or(Ok(()), |why| bail!("{id}: somebody else changed it: {why}"))
    }

    fn replace_route(&self, table: &TableId, to: &NextHop) -> ReplaceRouteFluentBuilder {
        let (interface, gateway) = fields(to);
        self.client
            .replace_route()
            .route_table_id(table.as_str())
            .destination_cidr_block(DEFAULT)
            .set_network_interface_id(interface)
            .set_nat_gateway_id(gateway)
    }

    async fn create_default_route(&self, table: &TableId, to: &NextHop) -> Result<(), Failure> {
        let (interface, gateway) = fields(to);
        self.client
            .create_route()
            .route_table_id(table.as_str())
            .destination_cidr_block(DEFAULT)
            .set_network_interface_id(interface)
            .set_nat_gateway_id(gateway)
            .send()
            .await?;
        Ok(())
    }
}

/// The wait after so many failures before.
fn backoff(failures: u32) -> Duration {
    let doubled = INITIAL_BACKOFF.saturating_mul(1 << failures.min(10));
    doubled.min(MAX_BACKOFF)
}

/// The request's fields, one of which is there: interface and NAT gateway.
fn fields(to: &NextHop) -> (Option<String>, Option<String>) {
    match to {
        NextHop::Instance { interface, .. } => (Some(interface.as_str().to_owned()), None),
        NextHop::NatGateway(id) => (None, Some(id.as_str().to_owned())),
    }
}
