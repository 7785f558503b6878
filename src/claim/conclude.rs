//! The end of every run that could do anything: the answer to the launching hook that waits.

use anyhow::Result;
use tokio::time::sleep;

use super::Run;
use crate::autoscaling::{Answer, Launch, State, choose_hook};
use crate::config::PENDING_INTERVAL;
use crate::report::{Lifecycle, Report};
use crate::routes::Nat;

impl Run<'_> {
    /// Answers the launching hook that waits, if one does: CONTINUE when the work is done or
    /// tables count on this instance by now, ABANDON otherwise.
    pub(super) async fn conclude(&self, worked: &Result<()>, report: &mut Report) -> Result<()> {
        if worked.is_err() {
            self.last_look(report).await;
        }
        let Some(launch) = self.settled_launch().await? else {
            return Ok(());
        };
        let serves = worked.is_ok() || report.holds_any();
        let hooks = hooks_to_answer(&launch, self.settings.lifecycle_hook.as_deref(), serves);
        let mut answered = None;
        for (hook, answer) in hooks {
            let instance = &self.instance.instance_id;
            let done = self
                .autoscaling
                .complete(instance, &launch.group, &hook, answer);
            if done.await? {
                tracing::info!("lifecycle hook {hook} completed with {answer}");
                answered = Some((hook, answer));
                break;
            }
        }
        report.lifecycle = Some(Lifecycle { launch, answered });
        Ok(())
    }

    /// After work that was cut short: a change may have been made that no answer told of.
    async fn last_look(&self, report: &mut Report) {
        let nat = report.network.as_ref();
        let nat = nat.map(|network| Nat::new(&self.instance, network));
        if let Some(nat) = nat.filter(|_| !report.is_settled())
            && let Err(error) = self.look(&nat, report).await
        {
            tracing::warn!("reading back: {error:#}");
        }
    }

    /// The launch, once the group has made up its mind whether a hook waits: a fast boot may
    /// get here before that.
    async fn settled_launch(&self) -> Result<Option<Launch>> {
        let instance = &self.instance.instance_id;
        let mut launch = self.launch().await?.cloned();
        while let Some(State::Pending { .. }) = launch.as_ref().map(|launch| &launch.state) {
            let why = format!("{instance} is still Pending");
            self.troubles.note("Auto Scaling", why);
            sleep(PENDING_INTERVAL).await;
            launch = self.autoscaling.launch(instance).await?;
        }
        Ok(launch)
    }
}

/// Ours, with the answer. Where it cannot be told which one is ours, the launch fails, and an
/// ABANDON to any of them ends it: all of them are tried.
fn hooks_to_answer(launch: &Launch, named: Option<&str>, serves: bool) -> Vec<(String, Answer)> {
    if !matches!(launch.state, State::Waiting { .. }) {
        return Vec::new();
    }
    match choose_hook(&launch.hooks, named) {
        Ok(hook) => {
            let answer = if serves {
                Answer::Continue
            } else {
                Answer::Abandon
            };
            hook.map(|hook| (hook.to_owned(), answer))
                .into_iter()
                .collect()
        }
        Err(_) => {
            let all = launch.hooks.iter().cloned();
            all.map(|hook| (hook, Answer::Abandon)).collect()
        }
    }
}
