//! What ends the work early: the run's deadline, and the signals that ask a process to stop.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::config::Settings;
use crate::troubles::Troubles;

/// The limits of one run. Signals are caught from here on, so that they end the work and not
/// the process.
pub(super) struct Limits {
    deadline: Instant,
    /// How long before the deadline the work ends, so that an answer can still be given.
    reserve: Duration,
    stopped: bool,
    terminate: Signal,
    interrupt: Signal,
    troubles: Troubles,
}

impl Limits {
    /// The time runs from now. When it is up, `troubles` tell why.
    pub(super) fn new(settings: &Settings, troubles: Troubles) -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            deadline: Instant::now() + settings.deadline,
            reserve: settings.answer_time,
            stopped: false,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            troubles,
        })
    }

    /// When the answer to the hook must have been given: who asked to stop is not kept waiting
    /// for what the deadline leaves.
    pub(super) fn answer_by(&self) -> Instant {
        if self.stopped {
            Instant::now() + self.reserve
        } else {
            self.deadline
        }
    }

    /// Works until it is done or a limit is reached.
    pub(super) async fn bound<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let signal = tokio::select! {
            done = work => return done,
            () = sleep_until(self.deadline - self.reserve) => {
                return Err(anyhow!("{}", self.troubles).context("the time is up"));
            }
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        self.stopped = true;
        Err(anyhow!("stopped by {signal}"))
    }
}
