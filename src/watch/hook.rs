//! The terminating hook that holds the instance: kept waiting until others have the routes, then
//! answered with CONTINUE.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Watch;
use crate::autoscaling::{Answer, Hook};
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
        let _ = notices.wait_for(|notices| notices.terminated).await;
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
        loop {
            let since = Instant::now();
            let member = self.session.autoscaling.member(instance).await?;
            let Some(member) = member else {
                bail!("{instance} is not in the list of its group's instances");
            };
            let state = member.state.to_string();
            if matches!(state.as_str(), "Terminating:Proceed" | "Terminated") {
                return Ok(None);
            }
            let hooks = self
                .session
                .autoscaling
                .terminating_hooks(&member.group)
                .await?;
            let Some(hook) = choose(hooks, self.settings.terminating_hook.as_deref())? else {
                return Ok(None);
            };
            if state == "Terminating:Wait" {
                return Ok(Some(Waiting {
                    group: member.group,
                    hook,
                    since,
                }));
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
        // What is sure without another heartbeat.
        let mut sure = *since + hook.heartbeat;
        let mut left = self.left.subscribe();
        loop {
            let instance = &self.session.instance.instance_id;
            let beat = self
                .session
                .autoscaling
                .heartbeat(instance, group, &hook.name);
            let sent = Instant::now();
            // In time for the answer, if there is time.
            let last = sure - LAST_MOMENT.min(hook.heartbeat / 10);
            let patience = last.min(sent + hook.heartbeat / 3);
            let beat = timeout_at(patience.max(sent + LEAST_PATIENCE), beat).await;
            let mut beats = false;
            match beat.unwrap_or_else(|_| Err(anyhow!("{}", self.session.troubles))) {
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
            let last = sure - LAST_MOMENT.min(hook.heartbeat / 10);
            tokio::select! {
                _ = left.wait_for(|left| *left) => return true,
                () = sleep_until(last.min(sent + hook.heartbeat / 3)) => {}
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

/// Ours: the one the user named, or the only one.
fn choose(mut hooks: Vec<Hook>, named: Option<&str>) -> Result<Option<Hook>> {
    if let Some(named) = named {
        hooks.retain(|hook| hook.name == named);
    }
    if hooks.len() > 1 {
        let every: Vec<&str> = hooks.iter().map(|hook| hook.name.as_str()).collect();
        bail!(
            "the group has several terminating hooks, name ours by --terminating-hook: {}",
            every.join(", ")
        );
    }
    let hook = hooks.pop();
    if let (None, Some(named)) = (&hook, named) {
        bail!("--terminating-hook {named:?} is not among the group's terminating hooks");
    }
    Ok(hook.filter(|hook| hook.heartbeat > Duration::ZERO))
}
