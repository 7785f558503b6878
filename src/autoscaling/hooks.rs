//! Lifecycle hooks: which there are, which one is ours, keeping one waiting, and answering it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::AutoScaling;
use crate::aws::{Failure, Kind};
use crate::ids::InstanceId;

/// What a hook holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// An instance that goes into service.
    Launching,
    /// An instance that goes for good.
    Terminating,
}

impl Transition {
    /// As the API spells it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "autoscaling:EC2_INSTANCE_LAUNCHING",
            Self::Terminating => "autoscaling:EC2_INSTANCE_TERMINATING",
        }
    }

    /// By which the user names ours.
    fn flag(self) -> &'static str {
        match self {
            Self::Launching => "--lifecycle-hook",
            Self::Terminating => "--terminating-hook",
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launching => "launching",
            Self::Terminating => "terminating",
        })
    }
}

/// A lifecycle hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// How long it waits after its beginning or the last heartbeat.
    pub heartbeat: Duration,
    /// How long it waits at most.
    pub limit: Duration,
}

/// The answer to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Puts an instance that is launched in service; one that is terminated may go.
    Continue,
    /// Has the group terminate an instance that is launched, and replace it.
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

impl AutoScaling {
    /// A group's hooks for one of the two transitions.
    pub async fn hooks(&self, group: &str, transition: Transition) -> Result<Vec<Hook>> {
        let answer = self
            .client
            .describe_lifecycle_hooks()
            .auto_scaling_group_name(group)
            .send()
            .await
            .map_err(Failure::from)
            .with_context(|| format!("describing the lifecycle hooks of {group}"))?;
        let seconds =
            |n: Option<i32>| Duration::from_secs(n.and_then(|n| n.try_into().ok()).unwrap_or(0));
        let hooks = answer.lifecycle_hooks.unwrap_or_default().into_iter();
        Ok(hooks
            .filter(|hook| hook.lifecycle_transition() == Some(transition.as_str()))
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

/// Ours: the one the user named, or the only one.
pub fn choose<'a>(
    hooks: &'a [Hook],
    named: Option<&str>,
    transition: Transition,
) -> Result<Option<&'a Hook>> {
    let flag = transition.flag();
    match (named, hooks) {
        (Some(named), _) => match hooks.iter().find(|hook| hook.name == named) {
            Some(hook) => Ok(Some(hook)),
            None => bail!(
                "{flag} {named:?} is not among the group's {transition} hooks: {}",
                list(hooks)
            ),
        },
        (None, []) => Ok(None),
        (None, [hook]) => Ok(Some(hook)),
        (None, _) => bail!(
            "the group has several {transition} hooks, name ours by {flag}: {}",
            list(hooks)
        ),
    }
}

fn list(hooks: &[Hook]) -> String {
    if hooks.is_empty() {
        return "it has none".to_owned();
    }
    let names: Vec<&str> = hooks.iter().map(|hook| hook.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(names: &[&str]) -> Vec<Hook> {
        let hook = |name: &&str| Hook {
            name: (*name).to_owned(),
            heartbeat: Duration::from_mins(1),
            limit: Duration::from_hours(1),
        };
        names.iter().map(hook).collect()
    }

    #[test]
    fn the_hook_is_named_or_alone() {
        let chosen = |hooks: &[Hook], named| {
            let chosen = choose(hooks, named, Transition::Launching);
            chosen.map(|hook| hook.map(|hook| hook.name.clone()))
        };
        assert_eq!(chosen(&hooks(&["a"]), None).unwrap().as_deref(), Some("a"));
        assert_eq!(chosen(&[], None).unwrap(), None);
        let two = hooks(&["a", "b"]);
        assert_eq!(chosen(&two, Some("b")).unwrap().as_deref(), Some("b"));
        let error = chosen(&two, None).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        let error = chosen(&two, Some("c")).unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }
}
