//! What ends the work early: the run's deadline, and the signals that ask a process to stop.

use std::future::{Future, pending};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::aws::troubles::Troubles;

/// The signals that ask a process to stop. They are caught from here on, so that they end the
/// work and not the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The limits of one run.
pub struct Limits {
    deadline: Instant,
    /// How long before the deadline the work ends, so that an answer can still be given.
    reserve: Duration,
    stopped: bool,
    signals: Option<Signals>,
    troubles: Troubles,
}

impl Limits {
    /// The time runs from now; `reserve` is kept of it. When it is up, `troubles` tell why.
    pub fn new(time: Duration, reserve: Duration, troubles: Troubles) -> Self {
        Self {
            deadline: Instant::now() + time,
            reserve,
            stopped: false,
            signals: None,
            troubles,
        }
    }

    /// And what asks the process to stop.
    pub fn and_signals(self) -> Result<Self> {
        let signals = Some(Signals::new()?);
        Ok(Self { signals, ..self })
    }

    /// When the answer to the hook must have been given: who asked to stop is not kept waiting
    /// for what the deadline leaves.
    pub fn answer_by(&self) -> Instant {
        if self.stopped {
            Instant::now() + self.reserve
        } else {
            self.deadline
        }
    }

    /// Works until it is done or a limit is reached.
    pub async fn bound<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let signals = self.signals.as_mut();
        let stop = async {
            match signals {
                Some(signals) => signals.next().await,
                None => pending().await,
            }
        };
        let signal = tokio::select! {
            done = work => return done,
            () = sleep_until(self.deadline - self.reserve) => {
                return Err(anyhow!("{}", self.troubles).context("the time is up"));
            }
            signal = stop => signal,
        };
        self.stopped = true;
        Err(anyhow!("stopped by {signal}"))
    }
}
