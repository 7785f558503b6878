//! A claim that wrong usage keeps from being one: nothing is looked at or changed, but a launching
//! hook that waits hears of it, so that its group need not wait for it to run out.

use std::time::Duration;

use anyhow::Result;
use hanat_core::lifecycle::State;
use tokio::time::sleep;

use super::PENDING_INTERVAL;
use crate::aws::autoscaling::Answer;
use crate::aws::http;
use crate::aws::session::Session;
use crate::aws::troubles::Troubles;

/// How long IMDS has to say who this is. Where nobody says so, this is no instance that boots.
const ASKING: Duration = Duration::from_secs(5);

/// How long the group has to say whether a hook waits, and to take the answer.
const ANSWERING: Duration = Duration::from_mins(2);

/// Answers a launching hook that waits with ABANDON; which hook is ours cannot be told, and one
/// ABANDON ends the launch. Does nothing outside a launch.
pub async fn abandon_launch() -> Result<()> {
    let troubles = Troubles::default();
    let opened = Session::open(http::client()?, &troubles);
    let session = match tokio::time::timeout(ASKING, opened).await {
        Ok(session) => session?,
        Err(_) => return Ok(()),
    };
    session.within(ANSWERING, abandon(&session)).await
}

async fn abandon(session: &Session) -> Result<()> {
    let instance = &session.instance.instance_id;
    // Outside a group asking need not be allowed.
    let Some(target) = session.metadata.target_state().await? else {
        return Ok(());
    };
    loop {
        match session.autoscaling.member(instance).await? {
            Some(member) if member.may_come_to_wait() => {}
            Some(member) if matches!(member.state, State::Waiting { .. }) => {
                let hooks = member.hooks.map_err(anyhow::Error::msg)?;
                for hook in hooks {
                    let (group, answer) = (&member.group, Answer::Abandon);
                    let answered = session
                        .autoscaling
                        .complete(instance, group, &hook.name, answer);
                    if answered.await? {
                        tracing::info!("lifecycle hook {} completed with {answer}", hook.name);
                        break;
                    }
                }
                return Ok(());
            }
            // The list may not show it yet.
            None if target.may_launch() => {}
            Some(_) | None => return Ok(()),
        }
        sleep(PENDING_INTERVAL).await;
    }
}
