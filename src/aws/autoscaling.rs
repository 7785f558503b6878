//! EC2 Auto Scaling: how a group sees its instances, this one and others.

mod groups;
mod hooks;

use anyhow::{Context, Result, anyhow};
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::types::AutoScalingInstanceDetails;
use hanat_core::ids::{InstanceId, Malformed};
use hanat_core::lifecycle::State;

use crate::aws::clients::Failure;
use crate::aws::lists::List;
use crate::aws::patience::Patience;
use crate::aws::troubles::Troubles;

pub use hooks::{Answer, Hook, Transition, choose};

/// Instances in one question to Auto Scaling (API reference, `DescribeAutoScalingInstances`: 50).
pub const GROUP_MEMBERS: usize = 50;

/// An instance as its group lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The group's name.
    pub group: String,
    /// The instance's lifecycle state.
    pub state: State,
    /// Whether it passes the group's health checks.
    pub healthy: bool,
}

/// This instance, for a launch.
#[derive(Clone, Debug)]
pub struct Member {
    /// The group's name.
    pub group: String,
    /// The instance's lifecycle state.
    pub state: State,
    /// The group's launching hooks, or why they are not known. Asked for only where one waits or
    /// may soon.
    pub hooks: Result<List<Hook>, String>,
}

impl Member {
    /// Whether a hook may be about to wait.
    pub fn may_come_to_wait(&self) -> bool {
        let is_any = |hooks: &List<Hook>| !hooks.is_empty() || !hooks.odd().is_empty();
        matches!(self.state, State::Pending { .. }) && self.hooks.as_ref().is_ok_and(is_any)
    }

    /// The launching hook that is ours to complete, where one waits or may soon: the one the
    /// user named, or the only one.
    pub fn hook(&self, named: Option<&str>) -> Result<Option<&Hook>> {
        if let State::Other(_) = self.state {
            return Ok(None);
        }
        let hooks = self.hooks.as_ref().map_err(|error| anyhow!("{error}"))?;
        choose(hooks, named, Transition::Launching)
    }
}

/// The Auto Scaling calls this program makes.
#[derive(Debug)]
pub struct AutoScaling {
    client: Client,
    patience: Patience,
    /// Where what is odd in an answer is named.
    troubles: Troubles,
}

impl AutoScaling {
    /// Calls nothing yet. `patience` is the one that the client has.
    pub fn new(client: Client, patience: Patience, troubles: Troubles) -> Self {
        Self {
            client,
            patience,
            troubles,
        }
    }

    /// Not to be allowed to ask for a group is final from now on, unless there is one all the same.
    pub fn expect_no_group(&self) {
        self.patience.set_pointless(true);
    }

    /// Those of the instances that are in a group; at most `GROUP_MEMBERS` are asked for.
    pub async fn list(&self, instances: &[&InstanceId]) -> Result<List<(InstanceId, Listed)>> {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let answer = self
            .client
            .describe_auto_scaling_instances()
            .set_instance_ids(Some(ids.clone()))
            .send()
            .await
            .map_err(Failure::from)
            .with_context(|| asking(&ids.join(", ")))?;
        Ok(listed(answer.auto_scaling_instances(), &self.troubles))
    }

    /// The instance's group and state; `None` outside a group.
    pub async fn listed(&self, instance: &InstanceId) -> Result<Option<Listed>> {
        let found = self.list(&[instance]).await?;
        let found = found.one(|(id, _)| id == instance);
        let found = found.with_context(|| asking(instance.as_str()))?;
        Ok(found.map(|(_, listed)| listed))
    }

    /// The same, with the launching hooks.
    pub async fn member(&self, instance: &InstanceId) -> Result<Option<Member>> {
        let Some(Listed { group, state, .. }) = self.listed(instance).await? else {
            return Ok(None);
        };
        self.patience.set_pointless(false);
        let hooks = match state {
            State::Pending { .. } | State::Waiting { .. } => {
                let hooks = self.hooks(&group, Transition::Launching).await;
                hooks.map_err(|error| format!("{error:#}"))
            }
            State::Other(_) => Ok(List::default()),
        };
        Ok(Some(Member {
            group,
            state,
            hooks,
        }))
    }
}

fn asking(instances: &str) -> String {
    format!("asking for the Auto Scaling group of {instances}")
}

fn listed(found: &[AutoScalingInstanceDetails], troubles: &Troubles) -> List<(InstanceId, Listed)> {
    let parse = |found: &AutoScalingInstanceDetails| {
        let id = found.instance_id().unwrap_or_default().parse()?;
        let (group, state) = (found.auto_scaling_group_name(), found.lifecycle_state());
        let listed = Listed {
            group: name("the name of its Auto Scaling group", group)?,
            state: State::new(&name("its lifecycle state", state)?),
            // The API reference spells it Unhealthy and, in an example, UNHEALTHY.
            healthy: !found
                .health_status()
                .is_some_and(|status| status.eq_ignore_ascii_case("unhealthy")),
        };
        Ok((id, listed))
    };
    let id = AutoScalingInstanceDetails::instance_id;
    List::read(found, "what Auto Scaling says of", id, parse, troubles)
}

/// A group's name has 255 characters at most (API reference), a hook's as well; states have fewer.
fn name(what: &'static str, text: Option<&str>) -> Result<String, Malformed> {
    let text = text.unwrap_or_default();
    let fits = !text.is_empty() && text.chars().count() <= 255;
    if fits && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(Malformed::new(what, text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aws::lists::tests::odd_text;

    fn good(n: u32) -> AutoScalingInstanceDetails {
        AutoScalingInstanceDetails::builder()
            .instance_id(format!("i-{n:08x}"))
            .auto_scaling_group_name("nat")
            .lifecycle_state("InService")
            .health_status("HEALTHY")
            .build()
    }

    proptest! {
        #[test]
        fn an_odd_instance_hides_no_other(
            odd in proptest::collection::vec(proptest::collection::vec(odd_text(), 4), 0..5),
        ) {
            let odd = odd.into_iter().map(|texts| {
                let mut texts = texts.into_iter();
                let mut text = || texts.next().unwrap();
                AutoScalingInstanceDetails::builder()
                    .set_instance_id(text())
                    .set_auto_scaling_group_name(text())
                    .set_lifecycle_state(text())
                    .set_health_status(text())
                    .build()
            });
            let mut found: Vec<_> = odd.collect();
            found.insert(found.len() / 2, good(1));
            found.extend([good(2), good(1)]);
            let list = listed(&found, &Troubles::default());
            let good = list.iter().filter(|(_, listed)| listed.state.is_in_service());
            prop_assert_eq!(good.count(), 2);
        }
    }
}
