//! What ends the work early: the run's deadline, and the signals that ask a process to stop.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::troubles::Troubles;

/// The limits of one run. Signals are caught from here on, so that they end the work and not
/// the process.
pub(super) struct Limits {
    time: Duration,
    until: Instant,
    terminate: Signal,
    interrupt: Signal,
    troubles: Troubles,
}

impl Limits {
    /// The time runs from now. When it is up, `troubles` tell why.
    pub(super) fn new(time: Duration, troubles: Troubles) -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            time,
            until: Instant::now() + time,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            troubles,
        })
    }

    /// Works until it is done or a limit is reached.
    pub(super) async fn bound<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = sleep_until(self.until) => {
                let time = humantime::format_duration(self.time);
                Err(anyhow!("{}", self.troubles).context(format!("not done within {time}")))
            }
            _ = self.terminate.recv() => Err(anyhow!("stopped by SIGTERM")),
            _ = self.interrupt.recv() => Err(anyhow!("stopped by SIGINT")),
        }
    }
}
