//! EC2 Auto Scaling: how a group sees its instances, this one and others.

mod groups;
mod hooks;

use std::fmt;

use anyhow::{Context, Result, anyhow};
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::types::AutoScalingInstanceDetails;

use crate::aws::Failure;
use crate::ids::{InstanceId, Malformed};
use crate::lifecycle::Aside;
use crate::lists::List;
use crate::patience::Patience;
use crate::troubles::Troubles;

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

    /// Whether it is on its way into service, and a launching hook may wait.
    pub fn is_launching(&self) -> bool {
        matches!(
            self,
            Self::Pending { warmed: false } | Self::Waiting { warmed: false }
        )
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

    /// What keeps the instance from serving, though it stays.
    pub fn aside(&self) -> Option<Aside> {
        match self {
            Self::Pending { warmed } | Self::Waiting { warmed } => warmed.then_some(Aside::Warmed),
            Self::Other(text) => Aside::of(text),
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
    use crate::lists::tests::odd_text;

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
        for (text, aside) in [
            ("Warmed:Stopped", Some(Aside::Warmed)),
            ("Warmed:Pending:Wait", Some(Aside::Warmed)),
            ("EnteringStandby", Some(Aside::Standby)),
            ("Detaching", Some(Aside::Detached)),
            ("Pending:Wait", None),
            ("InService", None),
        ] {
            assert_eq!(State::new(text).aside(), aside, "{text}");
        }
    }
}
