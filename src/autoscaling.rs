//! EC2 Auto Scaling: the group this instance belongs to, its launching hooks, and the answer
//! to the one that waits.

mod leaving;

use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::types::LifecycleHook;

use crate::aws::{Failure, Kind};
use crate::ids::InstanceId;

pub use leaving::{Health, Hook};

const LAUNCHING: &str = "autoscaling:EC2_INSTANCE_LAUNCHING";

/// The instance as its group sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The group's name.
    pub group: String,
    /// The instance's lifecycle state.
    pub state: State,
    /// The group's launching hooks, by name, or why they are not known. Asked for only where
    /// one waits or may soon.
    pub hooks: Result<Vec<String>, String>,
}

impl Member {
    /// Whether a hook may be about to wait.
    pub fn may_come_to_wait(&self) -> bool {
        let hooks = self.hooks.as_ref();
        matches!(self.state, State::Pending { .. }) && hooks.is_ok_and(|hooks| !hooks.is_empty())
    }

    /// The launching hook that is ours to complete, where one waits or may soon: the one the
    /// user named, or the only one.
    pub fn hook(&self, named: Option<&str>) -> Result<Option<&str>> {
        if let State::Other(_) = self.state {
            return Ok(None);
        }
        let hooks = self.hooks.as_ref().map_err(|error| anyhow!("{error}"))?;
        choose(hooks, named)
    }
}

/// A lifecycle state, as far as a launch is concerned.
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
    /// Any other: nothing to answer.
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
        match self {
            Self::Pending { .. } | Self::Waiting { .. } => false,
            Self::Other(text) => text.contains("Terminat"),
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

/// The answer to a launching hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Puts the instance in service.
    Continue,
    /// Has the group terminate and replace it.
    Abandon,
}

impl Answer {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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

    /// The instance's group and state; `None` outside a group.
    pub async fn member(&self, instance: &InstanceId) -> Result<Option<Member>> {
        let answer = self
            .client
            .describe_auto_scaling_instances()
            .instance_ids(instance.as_str())
            .send()
            .await
            .map_err(Failure::from)
            .with_context(|| format!("asking for the Auto Scaling group of {instance}"))?;
        let Some(found) = answer.auto_scaling_instances().first() else {
            return Ok(None);
        };
        let group = found.auto_scaling_group_name().unwrap_or_default();
        let state = State::new(found.lifecycle_state().unwrap_or_default());
        let hooks = match state {
            State::Pending { .. } | State::Waiting { .. } => {
                let hooks = self.launching_hooks(group).await;
                hooks.map_err(|error| format!("{error:#}"))
            }
            State::Other(_) => Ok(Vec::new()),
        };
        Ok(Some(Member {
            group: group.to_owned(),
            state,
            hooks,
        }))
    }

    async fn launching_hooks(&self, group: &str) -> Result<Vec<String>> {
        let hooks = self.hooks(group, LAUNCHING).await?.into_iter();
        Ok(hooks.filter_map(|hook| hook.lifecycle_hook_name).collect())
    }

    /// A group's hooks for one of the two transitions.
    async fn hooks(&self, group: &str, transition: &str) -> Result<Vec<LifecycleHook>> {
        let answer = self
            .client
            .describe_lifecycle_hooks()
            .auto_scaling_group_name(group)
            .send()
            .await
            .map_err(Failure::from)
            .with_context(|| format!("describing the lifecycle hooks of {group}"))?;
        let hooks = answer.lifecycle_hooks.unwrap_or_default().into_iter();
        Ok(hooks
            .filter(|hook| hook.lifecycle_transition() == Some(transition))
            .collect())
    }

    /// Answers a hook. False: it did not wait (any more), because it was answered by someone
    /// else, by an earlier attempt of ours, or ran out.
    pub async fn complete(
        &self,
        instance: &InstanceId,
        group: &str,
        hook: &str,
        answer: Answer,
    ) -> Result<bool> {
        let answered = self
            .client
            .complete_lifecycle_action()
            .instance_id(instance.as_str())
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .lifecycle_action_result(answer.as_str())
            .send()
            .await
            .map_err(Failure::from);
        match answered {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind() == Kind::NoActiveAction => {
                tracing::warn!("lifecycle hook {hook} of {group}: {failure}");
                Ok(false)
            }
            Err(failure) => Err(failure).with_context(|| {
                format!("completing lifecycle hook {hook} of {group} with {answer}")
            }),
        }
    }
}

fn choose<'a>(hooks: &'a [String], named: Option<&str>) -> Result<Option<&'a str>> {
    match (named, hooks) {
        (Some(named), _) => match hooks.iter().find(|hook| *hook == named) {
            Some(hook) => Ok(Some(hook)),
            None => bail!(
                "--lifecycle-hook {named:?} is not among the group's launching hooks: {}",
                list(hooks)
            ),
        },
        (None, []) => Ok(None),
        (None, [hook]) => Ok(Some(hook)),
        (None, _) => bail!(
            "the group has several launching hooks, name ours by --lifecycle-hook: {}",
            list(hooks)
        ),
    }
}

fn list(hooks: &[String]) -> String {
    if hooks.is_empty() {
        "it has none".to_owned()
    } else {
        hooks.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_is_named_or_alone() {
        let hooks = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        assert_eq!(choose(&hooks(&["a"]), None).unwrap(), Some("a"));
        assert_eq!(choose(&hooks(&[]), None).unwrap(), None);
        let two = hooks(&["a", "b"]);
        assert_eq!(choose(&two, Some("b")).unwrap(), Some("b"));
        let error = choose(&two, None).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        let error = choose(&two, Some("c")).unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }

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
        assert!(!State::new("InService").leaving());
        assert!(State::new("Warmed:Stopped").warmed());
        assert!(!State::new("Pending:Wait").warmed());
    }
}
