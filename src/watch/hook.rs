//! The terminating hook that holds the instance: kept waiting until others have the routes, then
//! answered with CONTINUE.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, sleep_until};

use super::Watch;
use crate::autoscaling::{Answer, Hook, Listed, Transition, choose};
use crate::config::{ASKING_TIME, LAST_MOMENT, PENDING_INTERVAL, RETRY_INTERVAL};

/// What a heartbeat gets even where the time is up.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long the hook holds the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Not known yet.
    Asking,
    /// From when, and until when at most.
    For(Instant, Instant),
    /// Not at all (any more).
    No,
}

/// A hook that waits for us.
struct Waiting {
    group: String,
    hook: Hook,
    since: Instant,
}

impl Watch<'_> {
    /// From the moment when the group terminates the instance.
    pub(super) async fn keep_hook(&self) {
        const KEEPING: &str = "keeping the terminating hook";
        let mut notices = self.notices.subscribe();
        // It lives as long as this.
        let _ = notices
            .wait_for(|notices| notices.terminated.is_some())
            .await;
        let waiting = loop {
            let asked = self.session.within(ASKING_TIME, self.waiting_hook());
            match asked.await {
                Ok(waiting) => break waiting,
                Err(error) => self.session.troubles.warn(KEEPING, &format!("{error:#}")),
            }
            // Nobody knows how long it still holds: the routes had better go.
            self.hold.send_replace(Hold::No);
            sleep(RETRY_INTERVAL).await;
        };
        self.session.troubles.over(KEEPING);
        let Some(waiting) = waiting else {
            tracing::warn!("no terminating hook holds this instance: it may end any moment");
            self.hold.send_replace(Hold::No);
            return;
        };
        if self.hold_on(&waiting).await {
            self.answer(&waiting).await;
        }
    }

    /// The hook that is ours, once it waits; none where none will. An error where that cannot be
    /// told (yet).
    async fn waiting_hook(&self) -> Result<Option<Waiting>> {
        let instance = &self.session.instance.instance_id;
        let autoscaling = &self.session.autoscaling;
        let (ours, kind) = (
            self.settings.terminating_hook.as_deref(),
            Transition::Terminating,
        );
        loop {
            let since = Instant::now();
            let Some(Listed { group, state, .. }) = autoscaling.listed(instance).await? else {
                bail!("{instance} is not in the list of its group's instances");
            };
            if state.is_beyond_hooks() {
                return Ok(None);
            }
            let hooks = autoscaling.hooks(&group, kind).await?;
            let hook = choose(&hooks, ours, kind)?.filter(|hook| hook.heartbeat > Duration::ZERO);
            let Some(hook) = hook.cloned() else {
                return Ok(None);
            };
            if state.waits_to_terminate() {
                return Ok(Some(Waiting { group, hook, since }));
            }
            sleep(PENDING_INTERVAL).await;
        }
    }

    /// Until nothing leads here any more, or the last moment. False: it does not wait any more.
    async fn hold_on(&self, waiting: &Waiting) -> bool {
        const HEARTBEAT: &str = "heartbeat of the terminating hook";
        let Waiting { group, hook, since } = waiting;
        tracing::info!(
            "terminating hook {} of {group} holds this instance for {} at most",
            hook.name,
            humantime::format_duration(hook.limit)
        );
        let most = *since + hook.limit;
        // What is sure without another heartbeat; the answer is given before that.
        let mut sure = *since + hook.heartbeat;
        let reserve = LAST_MOMENT.min(hook.heartbeat / 10);
        let third = hook.heartbeat / 3;
        let noticed = self.notices.borrow().terminated;
        let mut left = self.left.subscribe();
        loop {
            let instance = &self.session.instance.instance_id;
            let beat = self
                .session
                .autoscaling
                .heartbeat(instance, group, &hook.name);
            let sent = Instant::now();
            let patience = (sure - reserve).saturating_duration_since(sent).min(third);
            let patience = patience.max(LEAST_PATIENCE);
            let mut beats = false;
            match self.session.within(patience, beat).await {
                Ok(true) => {
                    self.session.troubles.over(HEARTBEAT);
                    sure = most.min(sent + hook.heartbeat);
                    beats = sure < most;
                    self.hold.send_replace(Hold::For(*since, most));
                }
                Ok(false) => {
                    tracing::warn!(
                        "terminating hook {} was completed by somebody else",
                        hook.name
                    );
                    self.hold.send_replace(Hold::No);
                    return false;
                }
                Err(error) => {
                    self.session.troubles.warn(HEARTBEAT, &format!("{error:#}"));
                    self.hold.send_replace(Hold::For(*since, sure));
                }
            }
            let last = sure - reserve;
            tokio::select! {
                // What was found before does not count: a table may have come since.
                _ = left.wait_for(|looked| *looked >= noticed) => return true,
                () = sleep_until(last.min(sent + third)) => {}
            }
            // An instance that stood still may find its hook waiting all the same.
            if Instant::now() >= last && !beats {
                tracing::error!(
                    "terminating hook {} waits no longer, and route tables may still lead here: \
                     their clients lose their way out",
                    hook.name
                );
                return true;
            }
        }
    }

    async fn answer(&self, waiting: &Waiting) {
        let Waiting { group, hook, .. } = waiting;
        let instance = &self.session.instance.instance_id;
        let answer = Answer::Continue;
        loop {
            let completed = self
                .session
                .autoscaling
                .complete(instance, group, &hook.name, answer);
            match completed.await {
                Ok(true) => {
                    tracing::info!("lifecycle hook {} completed with {answer}", hook.name);
                    return;
                }
                Ok(false) => return,
                Err(error) => {
                    let why = format!("{error:#}");
                    self.session
                        .troubles
                        .warn("answering the terminating hook", &why);
                }
            }
            // What is refused for credentials, or for a clock that is wrong, may pass.
            sleep(RETRY_INTERVAL).await;
        }
    }
}
