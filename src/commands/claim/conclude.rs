//! The end of every run that could do anything: the answer to the launching hook that waits.

use anyhow::{Result, bail};
use hanat_core::lifecycle::State;

use super::{Run, launch};
use crate::aws::autoscaling::{Answer, Member};
use crate::commands::claim::report::{Lifecycle, Report};

impl Run<'_> {
    /// Answers the launching hook that waits, if one does: CONTINUE when the work is done or
    /// tables count on this instance by now, ABANDON otherwise.
    pub(super) async fn conclude(&self, worked: &Result<()>, report: &mut Report) -> Result<()> {
        if worked.is_err() {
            self.last_look(report).await;
        }
        let member = self.known_member(report).await?.cloned();
        let target = report.target_state.as_ref();
        let Some(member) = launch::settled(self.session, target, member).await? else {
            return Ok(());
        };
        let serves = worked.is_ok() || report.serves();
        let due = self.due(&member, serves)?;
        if let Err(error) = worked
            && !due.is_empty()
            && !serves
        {
            // Before the answer, after which this instance may be gone any moment.
            tracing::warn!("giving the launch up: {error:#}");
        }
        let answered = launch::answer(self.session, &member.group, due).await?;
        report.lifecycle = Some(Lifecycle { member, answered });
        Ok(())
    }

    /// After work that was cut short: a change may have been made that no answer told of. The
    /// answer to the hook matters more, so that this gets half of what is kept for it.
    async fn last_look(&self, report: &mut Report) {
        let nat = report.common.network.as_ref();
        let nat = nat.map(|network| network.nat(&self.session.instance));
        let Some(nat) = nat.filter(|_| !report.is_settled()) else {
            return;
        };
        let mover = self.mover(&nat);
        let look = async {
            let tables = mover.look(&mut report.common.rows, true);
            let check = self.look_at_check(&nat, &mut report.check_is_on);
            tokio::try_join!(tables, check)
        };
        let time = self.settings.answer_time / 2;
        if let Err(error) = self.session.within(time, look).await {
            tracing::warn!("reading back a last time: {error:#}");
        }
    }

    /// The hooks to answer, and how: ours. Where it cannot be told which one is ours, the launch
    /// fails, and an ABANDON to any of them ends it: all of them are tried.
    fn due(&self, member: &Member, serves: bool) -> Result<Vec<(String, Answer)>> {
        if !matches!(member.state, State::Waiting { .. }) {
            return Ok(Vec::new());
        }
        match (
            member.hook(self.settings.lifecycle_hook.as_deref()),
            &member.hooks,
        ) {
            (Ok(None), _) => bail!("{} has no launching hook", member.group),
            (Ok(Some(hook)), _) if serves => Ok(vec![(hook.name.clone(), Answer::Continue)]),
            (Ok(Some(hook)), _) => Ok(vec![(hook.name.clone(), Answer::Abandon)]),
            (Err(_), Ok(hooks)) if !hooks.is_empty() => {
                let all = hooks.iter();
                Ok(all
                    .map(|hook| (hook.name.clone(), Answer::Abandon))
                    .collect())
            }
            (Err(error), _) => Err(error),
        }
    }
}
