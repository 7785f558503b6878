//! `hanat drain`: hands this instance's default routes over by hand.

pub mod render;
mod settings;

use std::time::Duration;

use anyhow::{Result, bail};
use hanat_core::change::{Change, Outcome};
use hanat_core::routes::Nat;
use hanat_core::successors::{self, Candidate};

use crate::aws::http;
use crate::aws::session::Session;
use crate::aws::troubles::Troubles;
use crate::commands::limits::Limits;
use crate::commands::report::{Common, exit};
use crate::tables::candidates;
use crate::tables::moving::Mover;

pub use settings::DrainSettings;

/// Kept of the deadline (at most a quarter of it) for a last look at what was reached.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What a run found, did and failed at; filled as it goes on.
#[derive(Debug)]
pub struct Report {
    /// What it has in common with other commands' reports.
    pub common: Common,
    /// Who could get the routes, healthy or not.
    pub candidates: Vec<Candidate>,
}

/// Runs the drain. What went wrong is in the report, too.
pub async fn run(settings: &DrainSettings) -> Report {
    let mut report = Report {
        common: Common::new(&settings.owner_tag, settings.dry_run),
        candidates: Vec::new(),
    };
    report.common.error = drain(settings, &mut report).await.err();
    report
}

async fn drain(settings: &DrainSettings, report: &mut Report) -> Result<()> {
    let troubles = Troubles::default();
    let last_look = LAST_LOOK.min(settings.deadline / 4);
    let limits = Limits::new(settings.deadline, last_look, troubles.clone());
    let mut limits = limits.and_signals()?;
    let session = limits
        .bound(Session::open(http::client()?, &troubles))
        .await?;
    report.common.instance = Some(session.instance.clone());

    let done = limits
        .bound(hand_all_over(settings, &session, report))
        .await;
    if done.is_err() && !settings.dry_run && !report.common.rows.is_empty() {
        // A change may have been made that no answer told of.
        let network = report.common.network.as_ref();
        if let Some(nat) = network.map(|network| network.nat(&session.instance)) {
            let mover = mover(settings, &session, &nat);
            let look = mover.look(&mut report.common.rows, true);
            if let Err(error) = session.within(last_look, look).await {
                tracing::warn!("reading back a last time: {error:#}");
            }
        }
    }
    done
}

async fn hand_all_over(
    settings: &DrainSettings,
    session: &Session,
    report: &mut Report,
) -> Result<()> {
    let key = &settings.owner_tag;
    // What leads here, and who could take it over?
    let network = session.metadata.network().await?;
    let nat = network.nat(&session.instance);
    report.common.network = Some(network);
    let mover = mover(settings, session, &nat);
    let tables = mover.tables().await?;
    report.common.odd_tables = tables.odd().to_vec();
    report.candidates = match &settings.to {
        Some(name) => vec![candidates::named(session, &nat, key, &tables, name).await?],
        None => candidates::find(session, &nat, key, &tables).await?,
    };

    report.common.rows = successors::plan(&tables, &nat, &report.candidates);
    if !settings.dry_run {
        mover.carry_out(&mut report.common.rows).await;
        mover
            .verify(&mut report.common.rows, settings.deadline)
            .await?;
    }
    report.verdict()
}

fn mover<'a>(settings: &'a DrainSettings, session: &'a Session, nat: &'a Nat) -> Mover<'a> {
    Mover {
        session,
        nat,
        key: &settings.owner_tag,
        replaces_endpoints: false,
    }
}

impl Report {
    fn verdict(&self) -> Result<()> {
        let Common {
            rows, odd_tables, ..
        } = &self.common;
        let lost = rows.iter().filter_map(|row| match &row.outcome {
            Outcome::Failed(why) => Some(format!("{}: {why}", row.id())),
            _ => None,
        });
        let lost: Vec<String> = lost.chain(odd_tables.iter().cloned()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let (all, n) = (rows.len() + odd_tables.len(), lost.len());
        bail!(
            "{n} of {all} route tables were not handed over: {}",
            lost.join("; ")
        );
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        let Common {
            rows,
            dry_run,
            error,
            ..
        } = &self.common;
        let fine = |row: &Change| row.is_gone() || (*dry_run && row.is_planned());
        let some = rows.iter().any(fine);
        match error {
            None => exit::DONE,
            Some(_) if some => exit::PARTIAL,
            Some(_) => exit::FAILED,
        }
    }
}
