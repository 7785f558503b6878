//! What Auto Scaling says to those that leave: how others are, and how long a terminating hook
//! waits.

use std::time::Duration;

use anyhow::{Context, Result};

use super::AutoScaling;
use crate::aws::{Failure, Kind};
use crate::ids::InstanceId;

const TERMINATING: &str = "autoscaling:EC2_INSTANCE_TERMINATING";

/// An instance as its group sees it.
#[derive(Clone, Debug)]
pub struct Health {
    /// Its lifecycle state.
    pub state: String,
    /// Whether it passes the group's health checks.
    pub healthy: bool,
}

/// A terminating hook.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// How long it waits after its beginning or the last heartbeat.
    pub heartbeat: Duration,
    /// How long it waits at most.
    pub limit: Duration,
}

impl AutoScaling {
    /// Those of the instances that are in a group; at most `GROUP_MEMBERS` are asked for.
    pub async fn health(&self, instances: &[&InstanceId]) -> Result<Vec<(InstanceId, Health)>> {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let doing = || format!("asking for the Auto Scaling groups of {}", ids.join(", "));
        let answer = self
            .client
            .describe_auto_scaling_instances()
            .set_instance_ids(Some(ids.clone()))
            .send()
            .await
            .map_err(Failure::from)
            .with_context(doing)?;
        let found = answer.auto_scaling_instances().iter();
        found
            .map(|found| {
                let health = Health {
                    state: found.lifecycle_state().unwrap_or_default().to_owned(),
                    // The API reference spells it Unhealthy and, in an example, UNHEALTHY.
                    healthy: !found
                        .health_status()
                        .is_some_and(|status| status.eq_ignore_ascii_case("unhealthy")),
                };
                Ok((found.instance_id().unwrap_or_default().parse()?, health))
            })
            .collect::<Result<_>>()
            .with_context(doing)
    }

    /// A group's terminating hooks.
    pub async fn terminating_hooks(&self, group: &str) -> Result<Vec<Hook>> {
        let hooks = self.hooks(group, TERMINATING).await?;
        let seconds =
            |n: Option<i32>| Duration::from_secs(n.and_then(|n| n.try_into().ok()).unwrap_or(0));
        let hooks = hooks.into_iter();
        Ok(hooks
            .map(|hook| {
                let heartbeat = seconds(hook.heartbeat_timeout());
                Hook {
                    name: hook.lifecycle_hook_name.unwrap_or_default(),
                    heartbeat,
                    // It is never less than what it begins with.
                    limit: seconds(hook.global_timeout).max(heartbeat),
                }
            })
            .collect())
    }

    /// Has a hook wait anew. False: it does not wait (any more).
    pub async fn heartbeat(&self, instance: &InstanceId, group: &str, hook: &str) -> Result<bool> {
        let recorded = self
            .client
            .record_lifecycle_action_heartbeat()
            .instance_id(instance.as_str())
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .send()
            .await
            .map_err(Failure::from);
        match recorded {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind() == Kind::NoActiveAction => Ok(false),
            Err(failure) => Err(failure)
                .with_context(|| format!("keeping lifecycle hook {hook} of {group} waiting")),
        }
    }
}
