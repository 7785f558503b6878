//! Where an Auto Scaling group takes an instance, as IMDS says it, and what keeps one that stays
//! from serving.
//!
//! Sources: EC2 Auto Scaling user guide, "Retrieve the target lifecycle state through instance
//! metadata", "Amazon EC2 Auto Scaling instance lifecycle" and "Use lifecycle hooks with a warm
//! pool".

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::ids::Malformed;

/// The state an Auto Scaling group is taking an instance to. It already says `InService` while
/// a launching hook waits. One that this program does not know is none of those it asks for: that
/// AWS invents another must not end a NAT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetState(String);

impl TargetState {
    /// In service, or on the way there.
    pub fn is_in_service(&self) -> bool {
        self.0 == "InService"
    }

    /// Whether the group's list will have the instance, and a launching hook may wait then. One that
    /// goes or is detached may be missing for good.
    pub fn may_launch(&self) -> bool {
        self.is_in_service() || self.aside() == Some(Aside::Warmed)
    }

    /// On the way out of this world.
    pub fn is_terminated(&self) -> bool {
        matches!(self.0.as_str(), "Terminated" | "Warmed:Terminated")
    }

    /// What keeps the instance from serving for now.
    pub fn aside(&self) -> Option<Aside> {
        Aside::of(&self.0)
    }
}

impl FromStr for TargetState {
    type Err = Malformed;

    /// `Standby`, `Warmed:Stopped` and the like.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_uppercase())
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphabetic())
        };
        let mut parts = text.split(':');
        if parts.by_ref().take(2).all(word) && parts.next().is_none() {
            Ok(Self(text.to_owned()))
        } else {
            Err(Malformed::new("a target lifecycle state", text))
        }
    }
}

/// What keeps an instance from serving, though it stays and may come into service: nothing is
/// claimed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Its group keeps it in the warm pool, or on the way into it.
    Warmed,
    /// A person took it out of service for a while.
    Standby,
    /// It is its group's no longer.
    Detached,
}

impl Aside {
    /// By the name of a lifecycle state, or of a target.
    pub fn of(state: &str) -> Option<Self> {
        match state {
            "EnteringStandby" | "Standby" => Some(Self::Standby),
            "Detaching" | "Detached" => Some(Self::Detached),
            _ if state.starts_with("Warmed:") => Some(Self::Warmed),
            _ => None,
        }
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warmed => "in the warm pool",
            Self::Standby => "in Standby",
            Self::Detached => "detached from its Auto Scaling group",
        })
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
    /// By its name.
    pub fn new(text: &str) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> TargetState {
        text.parse().unwrap()
    }

    #[test]
    fn what_keeps_an_instance_from_serving() {
        assert_eq!(target("Standby").aside(), Some(Aside::Standby));
        assert_eq!(target("Detached").aside(), Some(Aside::Detached));
        assert_eq!(target("Warmed:Hibernated").aside(), Some(Aside::Warmed));
        assert_eq!(Aside::of("EnteringStandby"), Some(Aside::Standby));
        assert_eq!(Aside::of("Detaching"), Some(Aside::Detached));
        assert_eq!(Aside::of("Warmed:Pending:Wait"), Some(Aside::Warmed));
        for serves in ["InService", "Terminated", "Retired:Elsewhere"] {
            assert_eq!(target(serves).aside(), None, "{serves}");
        }
    }

    #[test]
    fn who_goes_or_is_out_of_service_is_not_launched() {
        for (text, may) in [
            ("InService", true),
            ("Warmed:Stopped", true),
            ("Standby", false),
            ("Detached", false),
            ("Terminated", false),
            ("Retired:Elsewhere", false),
        ] {
            assert_eq!(target(text).may_launch(), may, "{text}");
        }
    }

    #[test]
    fn garbage_is_no_target() {
        for text in ["", "standby", "In Service", "A:B:C", "Standby\n", "Warmed:"] {
            assert!(text.parse::<TargetState>().is_err(), "{text:?}");
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
