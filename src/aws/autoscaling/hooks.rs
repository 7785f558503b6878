//! Lifecycle hooks: which there are, which one is ours, keeping one waiting, and answering it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_autoscaling::types::LifecycleHook;
use hanat_core::ids::InstanceId;

use super::{AutoScaling, name};
use crate::aws::clients::{Failure, Kind};
use crate::aws::lists::List;
use crate::aws::troubles::Troubles;

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
    pub async fn hooks(&self, group: &str, transition: Transition) -> Result<List<Hook>> {
        let answer = self
            .client
            .describe_lifecycle_hooks()
            .auto_scaling_group_name(group)
            .send()
            .await
            .map_err(Failure::from)
            .with_context(|| format!("describing the lifecycle hooks of {group}"))?;
        Ok(read(answer.lifecycle_hooks(), transition, &self.troubles))
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

/// Those that hold up this transition, and what could be one of them.
fn read(found: &[LifecycleHook], transition: Transition, troubles: &Troubles) -> List<Hook> {
    let seconds =
        |n: Option<i32>| Duration::from_secs(n.and_then(|n| n.try_into().ok()).unwrap_or(0));
    let others = |hook: &LifecycleHook| {
        let holds_up = hook.lifecycle_transition();
        holds_up.is_some_and(|other| !other.is_empty() && other != transition.as_str())
    };
    let ours: Vec<&LifecycleHook> = found.iter().filter(|hook| !others(hook)).collect();
    let parse = |hook: &&LifecycleHook| {
        name(
            "what a lifecycle hook holds up",
            hook.lifecycle_transition(),
        )?;
        let heartbeat = seconds(hook.heartbeat_timeout());
        Ok(Hook {
            name: name("the name of a lifecycle hook", hook.lifecycle_hook_name())?,
            heartbeat,
            // It is never less than what it begins with.
            limit: seconds(hook.global_timeout()).max(heartbeat),
        })
    };
    List::read(
        &ours,
        "lifecycle hook",
        |hook| hook.lifecycle_hook_name(),
        parse,
        troubles,
    )
}

/// Ours: the one the user named, or the only one. One that cannot be understood could be ours.
pub fn choose<'a>(
    hooks: &'a List<Hook>,
    named: Option<&str>,
    transition: Transition,
) -> Result<Option<&'a Hook>> {
    let flag = transition.flag();
    let found = named.map(|named| hooks.iter().find(|hook| hook.name == named));
    match (found, named, &hooks[..], hooks.odd()) {
        (Some(Some(hook)), ..) | (_, None, [hook], []) => Ok(Some(hook)),
        (_, Some(named), ..) => bail!(
            "{flag} {named:?} is not among the group's {transition} hooks: {}",
            list(hooks)
        ),
        (_, None, [], []) => Ok(None),
        (_, None, _, []) => bail!(
            "the group has several {transition} hooks, name ours by {flag}: {}",
            list(hooks)
        ),
        (_, None, ..) => bail!(
            "one of the group's {transition} hooks cannot be understood, name ours by {flag}: {}",
            list(hooks)
        ),
    }
}

fn list(hooks: &List<Hook>) -> String {
    let names = hooks.iter().map(|hook| hook.name.clone());
    let names: Vec<String> = names.chain(hooks.odd().iter().cloned()).collect();
    if names.is_empty() {
        return "it has none".to_owned();
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aws::lists::tests::odd_text;

    fn hook(name: Option<String>, transition: Option<String>) -> LifecycleHook {
        LifecycleHook::builder()
            .set_lifecycle_hook_name(name)
            .set_lifecycle_transition(transition)
            .heartbeat_timeout(60)
            .build()
    }

    fn launching(name: Option<&str>) -> LifecycleHook {
        let transition = Transition::Launching.as_str().to_owned();
        hook(name.map(str::to_owned), Some(transition))
    }

    fn hooks(names: &[Option<&str>]) -> List<Hook> {
        let found: Vec<LifecycleHook> = names.iter().map(|name| launching(*name)).collect();
        read(&found, Transition::Launching, &Troubles::default())
    }

    #[test]
    fn the_hook_is_named_or_alone() {
        let chosen = |hooks: &List<Hook>, named| {
            let chosen = choose(hooks, named, Transition::Launching);
            chosen.map(|hook| hook.map(|hook| hook.name.clone()))
        };
        let one = hooks(&[Some("a"), Some("a")]);
        assert_eq!(chosen(&one, None).unwrap().as_deref(), Some("a"));
        assert_eq!(chosen(&hooks(&[]), None).unwrap(), None);
        let two = hooks(&[Some("a"), Some("b")]);
        assert_eq!(chosen(&two, Some("b")).unwrap().as_deref(), Some("b"));
        let error = chosen(&two, None).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        let error = chosen(&two, Some("c")).unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn an_odd_hook_could_be_ours() {
        for spoilt in [hooks(&[None]), hooks(&[Some("a"), None])] {
            let error = choose(&spoilt, None, Transition::Launching).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("lifecycle hook without an ID"), "{error}");
        }
        let named = hooks(&[None, Some("a")]);
        let named = choose(&named, Some("a"), Transition::Launching).unwrap();
        assert_eq!(named.unwrap().name, "a");
        let other = hook(None, Some("autoscaling:EC2_INSTANCE_REBOOTING".to_owned()));
        let other = read(&[other], Transition::Launching, &Troubles::default());
        assert!(other.odd().is_empty(), "it is no launching hook");
    }

    proptest! {
        #[test]
        fn an_odd_hook_hides_no_other(
            odd in proptest::collection::vec((odd_text(), odd_text()), 0..5),
        ) {
            let odd = odd.into_iter().map(|(name, transition)| hook(name, transition));
            let mut found: Vec<_> = odd.collect();
            found.insert(found.len() / 2, launching(Some("OURS")));
            found.push(launching(Some("OURS")));
            let list = read(&found, Transition::Launching, &Troubles::default());
            prop_assert_eq!(list.iter().filter(|hook| hook.name == "OURS").count(), 1);
        }
    }
}
