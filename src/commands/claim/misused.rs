//! A claim that wrong usage keeps from being one: nothing is looked at or changed, but a launching
//! hook that waits hears of it, so that its group need not wait for it to run out.

use std::time::Duration;

use anyhow::Result;
use hanat_core::lifecycle::State;

use super::launch;
use crate::aws::autoscaling::{Answer, Member};
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
    let member = session.autoscaling.member(instance).await?;
    let member = launch::settled(session, Some(&target), member).await?;
    let waits = |member: &Member| matches!(member.state, State::Waiting { .. });
    if let Some(member) = member.filter(waits) {
        let hooks = member.hooks.map_err(anyhow::Error::msg)?.into_iter();
        let hooks = hooks.map(|hook| (hook.name, Answer::Abandon)).collect();
        launch::answer(session, &member.group, hooks).await?;
    }
    Ok(())
}
