//! Moving default routes away from this instance: each is read again right before it is moved,
//! since one that somebody else has taken meanwhile is theirs.

use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream;
use hanat_core::ids::TableId;
use hanat_core::routes::{DefaultRoute, Nat, NextHop, Table};
use hanat_core::successors::{Candidate, assign, nobody};
use tokio::time::sleep;

use crate::aws::session::Session;
use crate::tables::{MAX_VERIFY_INTERVAL, ROUTE_CALLS_IN_FLIGHT, VERIFY_INTERVAL};

/// A table that leads here, and what becomes of it.
#[derive(Debug)]
pub struct Row {
    /// As it was read first.
    pub table: Table,
    /// Who is to get it.
    pub to: Option<NextHop>,
    /// What became of it.
    pub outcome: Outcome,
    /// Its default route as read last.
    pub after: Option<DefaultRoute>,
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was done yet.
    Planned,
    /// EC2 accepted the change; nothing has shown it yet.
    Accepted,
    /// It leads to the successor, as EC2 shows.
    HandedOver,
    /// Somebody else took it first.
    Taken,
    /// It still leads here, or to a successor that is gone since.
    Failed(String),
}

impl Outcome {
    /// As the table and the JSON spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Accepted => "unverified",
            Self::HandedOver => "handed over",
            Self::Taken => "taken",
            Self::Failed(_) => "failed",
        }
    }
}

/// Decides where each table that leads here is to go. `tables` are all of the VPC's tagged ones.
pub fn plan(tables: &[Table], nat: &Nat, candidates: &[Candidate]) -> Vec<Row> {
    let assigned = assign(tables, nat, candidates).into_iter();
    let row = |(id, to): (TableId, Option<&Candidate>)| {
        let table = tables.iter().find(|table| table.id == id)?;
        Some(Row {
            table: table.clone(),
            to: to.map(|candidate| candidate.hop.clone()),
            outcome: match to {
                Some(_) => Outcome::Planned,
                None => Outcome::Failed(nobody(candidates)),
            },
            after: None,
        })
    };
    assigned.filter_map(row).collect()
}

/// Moves what is planned, several tables at once. A failure is that table's own.
pub async fn carry_out(session: &Session, nat: &Nat, rows: &mut [Row]) {
    let moves: Vec<(usize, TableId, NextHop)> = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.outcome == Outcome::Planned)
        .filter_map(|(n, row)| Some((n, row.table.id.clone(), row.to.clone()?)))
        .collect();
    let moves = moves.into_iter().map(|(n, table, to)| async move {
        let outcome = hand_over(session, nat, &table, &to).await;
        (
            n,
            outcome.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}"))),
        )
    });
    let mut moves = stream::iter(moves).buffer_unordered(ROUTE_CALLS_IN_FLIGHT);
    while let Some((n, outcome)) = moves.next().await {
        rows[n].outcome = outcome;
    }
}

async fn hand_over(session: &Session, nat: &Nat, table: &TableId, to: &NextHop) -> Result<Outcome> {
    let here = nat.next_hop();
    let changed = session.ec2.move_default_route(table, &here, to).await?;
    Ok(if changed {
        Outcome::Accepted
    } else {
        Outcome::Taken
    })
}

/// Reads back until EC2 shows what it accepted.
pub async fn verify(session: &Session, nat: &Nat, key: &str, rows: &mut [Row]) -> Result<()> {
    const READING: &str = "reading back";
    let mut wait = VERIFY_INTERVAL;
    loop {
        look(session, nat, key, rows).await?;
        let open = rows.iter().find(|row| row.outcome == Outcome::Accepted);
        let Some(open) = open else { break };
        let why = format!(
            "EC2 accepted the change and still shows {} here",
            open.table.id
        );
        session.troubles.note(READING, &why);
        sleep(wait).await;
        wait = (wait * 2).min(MAX_VERIFY_INTERVAL);
    }
    session.troubles.clear(READING);
    Ok(())
}

/// Takes in what EC2 shows now.
pub async fn look(session: &Session, nat: &Nat, key: &str, rows: &mut [Row]) -> Result<()> {
    let tables = session.ec2.owned_tables(&nat.vpc, key).await?;
    let mut looked = Ok(());
    for row in rows {
        match tables.iter().find(|table| table.id == row.table.id) {
            Some(now) => row.settle(Some(now), nat),
            // Gone, or only not tagged any more.
            None => match session.ec2.table(&row.table.id).await {
                Ok(now) => row.settle(now.as_ref(), nat),
                // It says nothing of the others.
                Err(error) => looked = looked.and(Err(error)),
            },
        }
    }
    looked
}

impl Row {
    /// Takes in what the table shows now. That it leads elsewhere than to the successor, or is gone,
    /// means that somebody else saw to it in turn, which is as good.
    fn settle(&mut self, now: Option<&Table>, nat: &Nat) {
        self.after = now.and_then(|table| table.default_route.clone());
        let open = matches!(self.outcome, Outcome::Accepted | Outcome::Planned);
        if !open || now.is_some_and(|now| nat.holds(now)) {
            return;
        }
        self.outcome = match (&self.after, &self.to) {
            (Some(route), Some(to)) if to.is(&route.target) && route.blackhole => {
                Outcome::Failed(format!("{to} is gone since"))
            }
            (Some(route), Some(to)) if to.is(&route.target) => Outcome::HandedOver,
            _ => Outcome::Taken,
        };
    }

    /// Whether it leads here no more.
    pub fn is_gone(&self) -> bool {
        matches!(self.outcome, Outcome::HandedOver | Outcome::Taken)
    }
}
