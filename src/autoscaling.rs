//! EC2 Auto Scaling: how a group sees its instances, this one and others.

mod hooks;

use std::fmt;

use anyhow::{Context, Result, anyhow};
use aws_sdk_autoscaling::Client;

use crate::aws::Failure;
use crate::ids::InstanceId;

pub use hooks::{Answer, Hook, Transition, choose};

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
    pub hooks: Result<Vec<Hook>, String>,
}

impl Member {
    /// Whether a hook may be about to wait.
    pub fn may_come_to_wait(&self) -> bool {
        let hooks = self.hooks.as_ref();
        matches!(self.state, State::Pending { .. }) && hooks.is_ok_and(|hooks| !hooks.is_empty())
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

/// A lifecycle state, as far as launching and leaving are concerned.
/// Source: EC2 Auto Scaling user guide, "Amazon EC2 Auto Scaling instance lifecycle".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// `Pending` or `Warmed:Pending`: a hook may be about to wait.
    Pending {
        /// Whether it is on its way into the warm pool.
        warmed: bool,
    },
    /// `Pending:Wait` or `Warmed:Pending:Wait`: a launching hook waits for an answer.
    Waiting {
        /// Whether it is on its way into the warm pool.
        warmed: bool,
    },
    /// Any other: no launching hook waits.
    Other(String),
}

impl State {
    fn new(text: &str) -> Self {
        match text {
            "Pending" => Self::Pending { warmed: false },
            "Warmed:Pending" => Self::Pending { warmed: true },
            "Pending:Wait" => Self::Waiting { warmed: false },
            "Warmed:Pending:Wait" => Self::Waiting { warmed: true },
            _ => Self::Other(text.to_owned()),
        }
    }

    /// Whether the group is letting the instance go.
    pub fn leaving(&self) -> bool {
        self.other().starts_with("Terminat")
    }

    /// Whether a terminating hook waits for an answer.
    pub fn waits_to_terminate(&self) -> bool {
        self.other() == "Terminating:Wait"
    }

    /// Whether no terminating hook waits any more.
    pub fn is_beyond_hooks(&self) -> bool {
        matches!(self.other(), "Terminating:Proceed" | "Terminated")
    }

    /// Whether the group counts on it.
    pub fn is_in_service(&self) -> bool {
        matches!(self, Self::Other(text) if text == "InService")
    }

    /// Without what says that it is in the warm pool.
    fn other(&self) -> &str {
        match self {
            Self::Other(text) => text.strip_prefix("Warmed:").unwrap_or(text),
            Self::Pending { .. } | Self::Waiting { .. } => "",
        }
    }

    /// Whether the instance is in the warm pool or on its way into it.
    pub fn warmed(&self) -> bool {
        match self {
            Self::Pending { warmed } | Self::Waiting { warmed } => *warmed,
            Self::Other(text) => text.starts_with("Warmed:"),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending { warmed: false } => "Pending",
            Self::Pending { warmed: true } => "Warmed:Pending",
            Self::Waiting { warmed: false } => "Pending:Wait",
            Self::Waiting { warmed: true } => "Warmed:Pending:Wait",
            Self::Other(text) => text,
        })
    }
}

/// The Auto Scaling calls this program makes.
#[derive(Debug)]
pub struct AutoScaling {
    client: Client,
}

impl AutoScaling {
    /// Calls nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Those of the instances that are in a group; at most `GROUP_MEMBERS` are asked for.
    pub async fn list(&self, instances: &[&InstanceId]) -> Result<Vec<(InstanceId, Listed)>> {
        let ids: Vec<String> = instances.iter().map(ToString::to_string).collect();
        let doing = || format!("asking for the Auto Scaling group of {}", ids.join(", "));
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
                let listed = Listed {
                    group: found
                        .auto_scaling_group_name()
                        .unwrap_or_default()
                        .to_owned(),
                    state: State::new(found.lifecycle_state().unwrap_or_default()),
                    // The API reference spells it Unhealthy and, in an example, UNHEALTHY.
                    healthy: !found
                        .health_status()
                        .is_some_and(|status| status.eq_ignore_ascii_case("unhealthy")),
                };
                Ok((found.instance_id().unwrap_or_default().parse()?, listed))
            })
            .collect::<Result<_>>()
            .with_context(doing)
    }

    /// The instance's group and state; `None` outside a group.
    pub async fn listed(&self, instance: &InstanceId) -> Result<Option<Listed>> {
        let mut found = self.list(&[instance]).await?;
        Ok(found.pop().map(|(_, listed)| listed))
    }

    /// The same, with the launching hooks.
    pub async fn member(&self, instance: &InstanceId) -> Result<Option<Member>> {
        let Some(Listed { group, state, .. }) = self.listed(instance).await? else {
            return Ok(None);
        };
        let hooks = match state {
            State::Pending { .. } | State::Waiting { .. } => {
                let hooks = self.hooks(&group, Transition::Launching).await;
                hooks.map_err(|error| format!("{error:#}"))
            }
            State::Other(_) => Ok(Vec::new()),
        };
        Ok(Some(Member {
            group,
            state,
            hooks,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_as_written() {
        for text in [
            "Pending",
            "Pending:Wait",
            "Warmed:Pending",
            "Warmed:Pending:Wait",
            "InService",
            "Terminating:Wait",
            "",
        ] {
            assert_eq!(State::new(text).to_string(), text);
        }
        assert!(State::new("Terminating:Wait").leaving());
        assert!(State::new("Warmed:Terminating:Wait").leaving());
        assert!(State::new("Warmed:Terminating:Wait").waits_to_terminate());
        assert!(!State::new("Terminating").waits_to_terminate());
        assert!(!State::new("Pending:Wait").waits_to_terminate());
        assert!(!State::new("InService").leaving());
        assert!(State::new("Warmed:Stopped").warmed());
        assert!(!State::new("Pending:Wait").warmed());
    }
}
