//! `hanat watch`: stays with a NAT. Four things go on at the same time, each until the process is
//! asked to stop, and none waits for another:
//!
//! - IMDS is asked for notices of this instance's end (here)
//! - once it leaves or stands aside, its routes go to others (`leave`), and when it comes back into
//!   service it claims (`enter`)
//! - meanwhile the terminating hook is kept waiting, and answered in the end (`hook`)
//! - what somebody undid of the kernel and the interface is put back (`upkeep`)

mod enter;
mod hook;
mod leave;
mod service;
mod settings;
mod upkeep;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use hanat_core::leaving::Hold;
use hanat_core::lifecycle::TargetState;
use hanat_core::notices::{Duty, Interruption, Notices, Time};
use hanat_core::routes::Nat;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::aws::http;
use crate::aws::session::Session;
use crate::aws::troubles::Troubles;
use crate::commands::limits::Signals;

use service::tell;

pub use settings::WatchSettings;

/// Wait before the next try of what failed, all its attempts included.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long one step of what is done again and again may take, all its attempts included: what
/// stands in the way of one thing must not keep another from being done.
const STEP_TIME: Duration = Duration::from_secs(30);

/// Runs until a signal asks it to stop, which moves no route. Fails where it cannot even begin.
pub async fn run(settings: &WatchSettings) -> Result<()> {
    let mut signals = Signals::new()?;
    let signal = tokio::select! {
        signal = signals.next() => signal,
        failed = watch(settings) => return failed,
    };
    tell(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping ({signal}): the routes stay as they are");
    Ok(())
}

/// Never ends well.
async fn watch(settings: &WatchSettings) -> Result<()> {
    let (session, nat) = begin().await?;
    let watch = Watch {
        settings,
        nat,
        session,
        notices: watch::Sender::default(),
        hold: watch::Sender::new(Hold::Asking),
        group: OnceLock::new(),
        left: watch::Sender::default(),
    };
    tell(&[sd_notify::NotifyState::Ready]);
    service::status("in service");
    tracing::info!("watching over {} in {}", watch.nat.instance, watch.nat.zone);
    tokio::join!(
        watch.look_out(),
        watch.follow(),
        watch.keep_hook(),
        watch.keep_up(),
        service::keep_alive(),
    );
    Ok(())
}

/// Asks IMDS who this is until it says so: ending for want of an answer would only mean to be
/// started again.
async fn begin() -> Result<(Session, Nat)> {
    const BEGINNING: &str = "beginning to watch";
    let (http, troubles) = (http::client()?, Troubles::default());
    loop {
        let begun = async {
            let session = Session::open(http.clone(), &troubles).await?;
            let nat = session.metadata.network().await?.nat(&session.instance);
            Ok::<_, Error>((session, nat))
        };
        if let Some(begun) = troubles.tell(BEGINNING, begun.await) {
            return Ok(begun);
        }
        sleep(RETRY_INTERVAL).await;
    }
}

struct Watch<'a> {
    settings: &'a WatchSettings,
    session: Session,
    nat: Nat,
    /// What was noticed so far.
    notices: watch::Sender<Notices>,
    /// How long the hook holds the instance.
    hold: watch::Sender<Hold>,
    /// The name of the group whose hook holds it.
    group: OnceLock<String>,
    /// When the last look began that found nothing that leads here, once the time to linger is
    /// over, or nobody who could and should take what does.
    left: watch::Sender<Option<Instant>>,
}

impl Watch<'_> {
    /// Does what the notices ask for about the routes, one after the other, so that leaving and
    /// claiming never fight. A watch that begins in service claims nothing, unless the launch still
    /// waits: `hanat claim` does, at boot.
    async fn follow(&self) {
        let mut notices = self.notices.subscribe();
        let serves = |notices: &Notices| self.duty(notices) == Duty::Serve;
        tokio::select! {
            () = self.resume() => {}
            _ = notices.wait_for(|notices| !serves(notices)) => {}
        }
        loop {
            // They live as long as this.
            let _ = notices.wait_for(|notices| !serves(notices)).await;
            tokio::select! {
                () = self.leave() => {}
                _ = notices.wait_for(serves) => {}
            }
            self.stay();
            tokio::select! {
                () = self.enter() => {}
                _ = notices.wait_for(|notices| !serves(notices)) => {}
            }
            self.session.troubles.forget(enter::CLAIMING);
        }
    }

    /// Looks for each of the notices by itself.
    async fn look_out(&self) {
        let metadata = &self.session.metadata;
        tokio::join!(
            self.look_for("the target lifecycle state", || async {
                self.heed(metadata.target_state().await?.as_ref());
                Ok(())
            }),
            self.look_for("Spot interruption notices", || async {
                let notice = metadata.interruption().await?;
                self.notices.send_if_modified(|known| match notice {
                    Some(notice) if known.interruption.is_none() => {
                        let Interruption { action, time } = &notice;
                        let at = time.as_ref().map(|time| format!(" at {time}"));
                        let at = at.unwrap_or_default();
                        tracing::warn!("EC2 will {action} this Spot Instance{at}");
                        known.interruption = Some(notice);
                        true
                    }
                    _ => false,
                });
                Ok(())
            }),
            self.look_for("rebalance recommendations", || async {
                let time = metadata.rebalance().await?;
                self.notices.send_if_modified(|known| match time {
                    Some(time) if known.rebalance.is_none() => {
                        known.rebalance = Some(time.clone());
                        tell_of_rebalance(&time, self.duty(known) == Duty::Leave);
                        true
                    }
                    _ => false,
                });
                Ok(())
            }),
        );
    }

    /// Takes in where the group is taking this instance.
    fn heed(&self, target: Option<&TargetState>) {
        self.notices.send_if_modified(|known| {
            let was_terminated = known.terminated;
            let is_new = known.take_in(target);
            if known.terminated && !was_terminated {
                tracing::info!("the Auto Scaling group is terminating this instance");
            } else if let Some(aside) = known.aside.filter(|_| is_new) {
                tracing::info!(
                    "this instance is {aside}: no route table is to lead here until it is in service"
                );
            }
            is_new
        });
    }

    /// Again and again. Trouble is in the log when it begins.
    async fn look_for<F: Future<Output = Result<()>>>(&self, what: &str, look: impl Fn() -> F) {
        let looking = format!("looking for {what}");
        loop {
            let next = Instant::now() + self.settings.interval;
            self.session.troubles.tell(&looking, look().await);
            // After a pause of the whole machine, the next one counts from then.
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
    }

    /// What the notices ask for.
    fn duty(&self, notices: &Notices) -> Duty {
        notices.duty(self.settings.drain_on_rebalance)
    }
}

fn tell_of_rebalance(time: &Time, leaves: bool) {
    let so = if leaves {
        ""
    } else {
        service::status(&format!("in service; rebalance recommended at {time}"));
        "; it stays (--drain-on-rebalance)"
    };
    tracing::warn!("EC2 recommended at {time} to rebalance this Spot Instance{so}");
}
