//! `hanat claim`: the run, in the order of its steps. Whatever AWS or the user does to it, it
//! ends in `conclude`, so that a hook that waits gets its answer.

mod conclude;
mod launch;
mod misused;
mod prepare;
pub mod render;
pub mod report;
mod settings;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hanat_core::change::Change;
use hanat_core::lifecycle::TargetState;
use hanat_core::routes::{ANY, Nat};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout_at};

use crate::aws::autoscaling::Member;
use crate::aws::http;
use crate::aws::patience::Patience;
use crate::aws::session::Session;
use crate::aws::troubles::Troubles;
use crate::commands::claim::report::{Lifecycle, Report};
use crate::commands::limits::Limits;
use crate::tables::moving::{MAX_VERIFY_INTERVAL, Mover, VERIFY_INTERVAL};

pub use misused::abandon_launch;
pub use settings::ClaimSettings;

/// How long EC2's reads may show what was before a change: mostly under a second, and nowhere
/// is a most given (EC2 API reference, "Eventual consistency"). At most a quarter of the deadline.
const READS_LAG: Duration = Duration::from_secs(10);

/// Wait between two looks at an instance that its group has not moved to `Pending:Wait` yet.
const PENDING_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the claim. What went wrong is in the report, too.
pub async fn run(settings: &ClaimSettings) -> Report {
    let mut report = Report::new(&settings.owner_tag, settings.dry_run);
    report.common.error = begin(settings, &mut report).await.err();
    report
}

async fn begin(settings: &ClaimSettings, report: &mut Report) -> Result<()> {
    let begun = tokio::time::Instant::now();
    let troubles = Troubles::default();
    let limits = Limits::new(settings.deadline, settings.answer_time, troubles.clone());
    let mut limits = limits.and_signals()?;
    // Who am I? Nothing can be answered before that is known.
    let patience = settings.patience.map(|patience| begun + patience);
    let patience = || patience.map_or_else(Patience::default, Patience::until);
    let session = limits
        .bound(Session::open_with(http::client()?, &troubles, patience))
        .await?;
    claim(settings, &session, limits, report).await
}

/// The same for a process that knows who it is and stays: it sees to its signals itself.
pub async fn run_within(settings: &ClaimSettings, session: &Session) -> Report {
    let troubles = session.troubles.clone();
    let limits = Limits::new(settings.deadline, settings.answer_time, troubles);
    let mut report = Report::new(&settings.owner_tag, settings.dry_run);
    report.common.error = claim(settings, session, limits, &mut report).await.err();
    report
}

async fn claim(
    settings: &ClaimSettings,
    session: &Session,
    mut limits: Limits,
    report: &mut Report,
) -> Result<()> {
    report.common.instance = Some(session.instance.clone());

    // The work, until it is done, the time is up or someone stops it.
    let run = Run {
        settings,
        session,
        member: OnceCell::new(),
    };
    let worked = limits.bound(run.work(report)).await;
    if settings.dry_run {
        return worked;
    }

    // The answer to the hook, from what is known by now.
    let concluded = timeout_at(limits.answer_by(), run.conclude(&worked, report)).await;
    let concluded = concluded
        .unwrap_or_else(|_| Err(anyhow!("no time is left ({})", session.troubles)))
        .context("answering the lifecycle hook");
    report.unanswered = concluded.is_err();
    match (worked, concluded) {
        (Err(first), Err(second)) => Err(both(&first, &second)),
        (worked, concluded) => worked.and(concluded),
    }
}

/// Two errors on one line; often the second has the first for its cause.
fn both(first: &anyhow::Error, second: &anyhow::Error) -> anyhow::Error {
    let (first, second) = (format!("{first:#}"), format!("{second:#}"));
    if second.contains(&first) {
        anyhow!(second)
    } else {
        anyhow!("{first}; and {second}")
    }
}

struct Run<'a> {
    settings: &'a ClaimSettings,
    session: &'a Session,
    /// What the group says, or why it is not known; asked again only when cut short.
    member: OnceCell<Result<Option<Member>, String>>,
}

impl Run<'_> {
    async fn work(&self, report: &mut Report) -> Result<()> {
        // What does not depend on each other, at the same time. The group is waited for even
        // where the rest failed: it has to be told.
        let (_, prepared) = tokio::join!(self.member(), self.prepare(report));
        let (nat, steps, kernel) = prepared?;
        let member = self.known_member(report).await?;
        let target = report.target_state.as_ref();
        let mut aside = target.and_then(TargetState::aside);
        let mut leaving = target.is_some_and(TargetState::is_terminated);
        if let Some(member) = member {
            report.lifecycle = Some(Lifecycle {
                member: member.clone(),
                answered: None,
            });
            member.hook(self.settings.lifecycle_hook.as_deref())?;
            // The group knows better than IMDS, which follows it.
            aside = member.state.aside();
            leaving |= member.state.leaving();
        }
        if leaving {
            bail!(
                "{} is being terminated: it must not take routes",
                nat.instance
            );
        }
        if let Some(aside) = aside {
            tracing::info!("{aside}: nothing is claimed");
            report.aside = Some(aside);
            return kernel;
        }
        if steps.is_empty() && report.common.odd_tables.is_empty() && !self.settings.allow_none {
            bail!(
                "no route table of {} is tagged {key}={} or {key}={ANY}",
                nat.vpc,
                nat.zone,
                key = self.settings.owner_tag
            );
        }
        let here = nat.next_hop();
        let changes = steps.into_iter().map(|step| Change::claim(step, &here));
        report.common.rows = changes.collect();
        kernel?;
        if !self.settings.dry_run {
            self.mover(&nat).carry_out(&mut report.common.rows).await;
            self.verify(&nat, report).await?;
        }
        report.verdict()
    }

    fn mover<'a>(&'a self, nat: &'a Nat) -> Mover<'a> {
        Mover {
            session: self.session,
            nat,
            key: &self.settings.owner_tag,
            replaces_endpoints: self.settings.replaces_endpoints,
        }
    }

    /// Reads back until EC2 shows what it accepted.
    async fn verify(&self, nat: &Nat, report: &mut Report) -> Result<()> {
        let lag = READS_LAG.min(self.settings.deadline / 4);
        let mover = self.mover(nat);
        let tables = mover.verify(&mut report.common.rows, lag);
        let check = self.check_goes_off(nat, &mut report.check_is_on);
        let read = tokio::try_join!(tables, check);
        read.map(drop).context("reading back")
    }

    async fn check_goes_off(&self, nat: &Nat, check_is_on: &mut bool) -> Result<()> {
        let troubles = &self.session.troubles;
        let reading = format!("reading back {}", nat.interface);
        let mut wait = VERIFY_INTERVAL;
        while *check_is_on {
            self.look_at_check(nat, check_is_on).await?;
            if *check_is_on {
                troubles.note(&reading, "the source/destination check is still on");
                sleep(wait).await;
                wait = (wait * 2).min(MAX_VERIFY_INTERVAL);
            }
        }
        troubles.clear(&reading);
        Ok(())
    }

    /// Where it was on as far as was seen last.
    async fn look_at_check(&self, nat: &Nat, check_is_on: &mut bool) -> Result<()> {
        if *check_is_on {
            *check_is_on = self.session.ec2.source_dest_check(&nat.interface).await?;
        }
        Ok(())
    }

    async fn member(&self) -> &Result<Option<Member>, String> {
        let member = || async {
            let member = self
                .session
                .autoscaling
                .member(&self.session.instance.instance_id)
                .await;
            member.map_err(|error| format!("{error:#}"))
        };
        self.member.get_or_init(member).await
    }

    /// The group's view, as far as it can be known. Where IMDS says that there is no group,
    /// asking need not be allowed.
    async fn known_member(&self, report: &Report) -> Result<Option<&Member>> {
        match self.member().await {
            Ok(member) => Ok(member.as_ref()),
            Err(error) if report.common.network.is_some() && report.target_state.is_none() => {
                tracing::warn!("{error}; IMDS says that this instance is in no group");
                Ok(None)
            }
            Err(error) => Err(anyhow!("{error}")),
        }
    }
}
