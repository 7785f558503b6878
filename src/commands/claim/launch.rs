//! The launch that an Auto Scaling group waits to hear of: when its hook waits, and the answer.

use anyhow::Result;
use hanat_core::lifecycle::TargetState;
use tokio::time::sleep;

use super::PENDING_INTERVAL;
use crate::aws::autoscaling::{Answer, Member};
use crate::aws::session::Session;

/// The group's view, once it has made up its mind whether a hook waits: a fast boot may get here
/// before that, or before the group's list shows the instance at all. `member` is what it said
/// last, and `target` what IMDS says; `None` outside a group.
pub async fn settled(
    session: &Session,
    target: Option<&TargetState>,
    mut member: Option<Member>,
) -> Result<Option<Member>> {
    let instance = &session.instance.instance_id;
    loop {
        let why = match (&member, target) {
            (Some(found), _) if found.may_come_to_wait() => "is still Pending",
            (None, Some(target)) if target.may_launch() => {
                "is not in the list of instances yet, and IMDS says that it is in a group"
            }
            _ => return Ok(member),
        };
        let troubles = &session.troubles;
        troubles.note("Auto Scaling", &format!("{instance} {why}"));
        sleep(PENDING_INTERVAL).await;
        member = session.autoscaling.member(instance).await?;
    }
}

/// Gives the first of the hooks that waits its answer, and says which one that was.
pub async fn answer(
    session: &Session,
    group: &str,
    hooks: Vec<(String, Answer)>,
) -> Result<Option<(String, Answer)>> {
    let (autoscaling, instance) = (&session.autoscaling, &session.instance.instance_id);
    for (hook, answer) in hooks {
        let done = autoscaling.complete(instance, group, &hook, answer);
        if done.await? {
            tracing::info!("lifecycle hook {hook} completed with {answer}");
            return Ok(Some((hook, answer)));
        }
    }
    Ok(None)
}
