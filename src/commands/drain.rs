//! `hanat drain`: hands this instance's default routes over by hand.

pub mod render;
mod settings;

use std::time::Duration;

use anyhow::{Error, Result, bail};
use hanat_core::change::{Change, Outcome};
use hanat_core::routes::Nat;
use hanat_core::successors::{self, Candidate};

use crate::aws::http;
use crate::aws::imds::{Instance, Network};
use crate::aws::session::Session;
use crate::aws::troubles::Troubles;
use crate::commands::limits::Limits;
use crate::commands::report::exit;
use crate::tables::candidates;
use crate::tables::moving::Mover;

pub use settings::DrainSettings;

/// Kept of the deadline (at most a quarter of it) for a last look at what was reached.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What a run found, did and failed at; filled as it goes on.
#[derive(Debug)]
pub struct Report {
    /// Whether changes were only planned.
    pub dry_run: bool,
    /// Key of the owner tag.
    pub owner_tag: String,
    /// This instance, once known.
    pub instance: Option<Instance>,
    /// Its place in the VPC, once known.
    pub network: Option<Network>,
    /// Who could get the routes, healthy or not.
    pub candidates: Vec<Candidate>,
    /// A row for each tagged table that leads here.
    pub rows: Vec<Change>,
    /// Tagged tables that could not be understood, each with why. They may lead here.
    pub odd_tables: Vec<String>,
    /// Why the run failed.
    pub error: Option<Error>,
}

/// Runs the drain. What went wrong is in the report, too.
pub async fn run(settings: &DrainSettings) -> Report {
    let mut report = Report {
        dry_run: settings.dry_run,
        owner_tag: settings.owner_tag.clone(),
        instance: None,
        network: None,
        candidates: Vec::new(),
        rows: Vec::new(),
        odd_tables: Vec::new(),
        error: None,
    };
    report.error = drain(settings, &mut report).await.err();
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
    report.instance = Some(session.instance.clone());

    let done = limits
        .bound(hand_all_over(settings, &session, report))
        .await;
    if done.is_err() && !settings.dry_run && !report.rows.is_empty() {
        // A change may have been made that no answer told of.
        let network = report.network.as_ref();
        if let Some(nat) = network.map(|network| network.nat(&session.instance)) {
            let mover = mover(settings, &session, &nat);
            let look = mover.look(&mut report.rows, true);
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
    report.network = Some(network);
    let mover = mover(settings, session, &nat);
    let tables = mover.tables().await?;
    report.odd_tables = tables.odd().to_vec();
    report.candidates = match &settings.to {
        Some(name) => vec![candidates::named(session, &nat, key, &tables, name).await?],
        None => candidates::find(session, &nat, key, &tables).await?,
    };

    report.rows = successors::plan(&tables, &nat, &report.candidates);
    if !settings.dry_run {
        mover.carry_out(&mut report.rows).await;
        mover.verify(&mut report.rows, settings.deadline).await?;
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
        let lost = self.rows.iter().filter_map(|row| match &row.outcome {
            Outcome::Failed(why) => Some(format!("{}: {why}", row.table.id)),
            _ => None,
        });
        let lost: Vec<String> = lost.chain(self.odd_tables.iter().cloned()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let (all, n) = (self.rows.len() + self.odd_tables.len(), lost.len());
        bail!(
            "{n} of {all} route tables were not handed over: {}",
            lost.join("; ")
        );
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        let fine =
            |row: &Change| row.is_gone() || (self.dry_run && row.outcome == Outcome::Planned);
        let some = self.rows.iter().any(fine);
        match &self.error {
            None => exit::DONE,
            Some(_) if some => exit::PARTIAL,
            Some(_) => exit::FAILED,
        }
    }
}
