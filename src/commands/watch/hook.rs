//! The terminating hook that holds the instance: kept waiting until others have the routes, then
//! answered with CONTINUE.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hanat_core::heartbeats::{Beat, Heartbeats};
use hanat_core::leaving::{Hold, LEAVING_INTERVAL};
use tokio::time::{sleep, sleep_until};

use super::{RETRY_INTERVAL, STEP_TIME, Watch};
use crate::aws::autoscaling::{Answer, Hook, Listed, Transition, choose};

/// How long Auto Scaling has to say which hook holds an instance that leaves. A hook waits for 30 s
/// at least.
const ASKING_TIME: Duration = Duration::from_secs(10);

/// Which hook holds the instance.
enum Held {
    /// One will, or may: its group has not come to that yet.
    Soon,
    /// This one.
    By(Waiting),
    /// None, and none will.
    Not,
}

/// A hook that waits for us.
struct Waiting {
    group: String,
    hook: Hook,
    beats: Heartbeats,
}

/// Why a hook is kept no longer.
enum Ended {
    /// Nothing leads here any more, or nobody is to take what does.
    Left,
    /// Its time is all but up.
    LastMoment,
    /// It does not wait any more.
    Gone,
}

impl Watch<'_> {
    /// From the moment when the group terminates the instance.
    pub(super) async fn keep_hook(&self) {
        let mut notices = self.notices.subscribe();
        // It lives as long as this.
        let _ = notices.wait_for(|notices| notices.terminated).await;
        let Some(mut waiting) = self.waiting_hook().await else {
            tracing::warn!("no terminating hook holds this instance: it may end any moment");
            self.hold.send_replace(Hold::No);
            return;
        };
        let Waiting { group, hook, .. } = &waiting;
        tracing::info!(
            "terminating hook {} of {group} holds this instance for {} at most",
            hook.name,
            humantime::format_duration(hook.limit)
        );
        loop {
            match self.hold_on(&mut waiting).await {
                Ended::Gone => return,
                Ended::LastMoment => break,
                // What is refused for credentials, or for a clock that is wrong, may pass; until
                // then a table may come, and the hook is to wait.
                Ended::Left if self.answered(&waiting).await => return,
                Ended::Left => sleep(RETRY_INTERVAL).await,
            }
        }
        while !self.answered(&waiting).await {
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// The hook that is ours, once it waits; none where none will.
    async fn waiting_hook(&self) -> Option<Waiting> {
        loop {
            let held = self.session.within(ASKING_TIME, self.held()).await;
            let told = self
                .session
                .troubles
                .tell("keeping the terminating hook", held);
            match told {
                Some(Held::By(waiting)) => return Some(waiting),
                Some(Held::Not) => return None,
                Some(Held::Soon) => {
                    self.set_hold(Hold::Asking);
                    sleep(LEAVING_INTERVAL).await;
                }
                None => {
                    // Nobody knows how long it still holds: the routes had better go.
                    self.set_hold(Hold::No);
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Tells of it only where it is new: who leaves looks at the tables at once then.
    fn set_hold(&self, hold: Hold) {
        self.hold
            .send_if_modified(|known| std::mem::replace(known, hold) != hold);
    }

    async fn held(&self) -> Result<Held> {
        let instance = &self.session.instance.instance_id;
        let autoscaling = &self.session.autoscaling;
        let (ours, kind) = (
            self.settings.terminating_hook.as_deref(),
            Transition::Terminating,
        );
        let since = Instant::now();
        let Some(Listed { group, state, .. }) = autoscaling.listed(instance).await? else {
            bail!("{instance} is not in the list of its group's instances");
        };
        if state.is_beyond_hooks() {
            return Ok(Held::Not);
        }
        let hooks = autoscaling.hooks(&group, kind).await?;
        let hook = choose(&hooks, ours, kind)?.filter(|hook| hook.heartbeat > Duration::ZERO);
        let Some(hook) = hook.cloned() else {
            return Ok(Held::Not);
        };
        if !state.waits_to_terminate() {
            return Ok(Held::Soon);
        }
        // It stays the same.
        let _ = self.group.set(group.clone());
        let beats = Heartbeats::new(since, hook.heartbeat, hook.limit);
        Ok(Held::By(Waiting { group, hook, beats }))
    }

    /// Until nobody needs it any more, or the last moment.
    async fn hold_on(&self, waiting: &mut Waiting) -> Ended {
        const HEARTBEAT: &str = "heartbeat of the terminating hook";
        let Waiting { group, hook, beats } = waiting;
        let (autoscaling, troubles) = (&self.session.autoscaling, &self.session.troubles);
        let instance = &self.session.instance.instance_id;
        // What was found before does not count: a table may have come since.
        let from = Some(Instant::now());
        let mut left = self.left.subscribe();
        loop {
            let sent = Instant::now();
            let recorded = autoscaling.heartbeat(instance, group, &hook.name);
            let recorded = tokio::select! {
                _ = left.wait_for(|looked| *looked >= from) => return Ended::Left,
                recorded = self.session.within(beats.patience(sent), recorded) => recorded,
            };
            let beat = match troubles.tell(HEARTBEAT, recorded) {
                Some(true) => Beat::Counted,
                Some(false) => Beat::TooLate,
                None => Beat::Unknown,
            };
            self.hold.send_replace(beats.take_in(sent, beat));
            if beat == Beat::TooLate {
                tracing::warn!(
                    "terminating hook {} waits no longer: somebody else completed it, or its time \
                     is up",
                    hook.name
                );
                return Ended::Gone;
            }
            tokio::select! {
                _ = left.wait_for(|looked| *looked >= from) => return Ended::Left,
                () = sleep_until(beats.next(sent).into()) => {}
            }
            if beats.is_over(Instant::now()) {
                tracing::error!(
                    "the time of terminating hook {} is up, and route tables may still lead here: \
                     their clients lose their way out",
                    hook.name
                );
                return Ended::LastMoment;
            }
        }
    }

    /// Answers the hook; false where Auto Scaling could not be reached, or refused.
    async fn answered(&self, Waiting { group, hook, .. }: &Waiting) -> bool {
        let instance = &self.session.instance.instance_id;
        let answer = Answer::Continue;
        let completed = self
            .session
            .autoscaling
            .complete(instance, group, &hook.name, answer);
        let completed = self.session.within(STEP_TIME, completed).await;
        let told = self
            .session
            .troubles
            .tell("answering the terminating hook", completed);
        if told == Some(true) {
            tracing::info!("lifecycle hook {} completed with {answer}", hook.name);
        }
        told.is_some()
    }
}
