//! What IMDS says of this instance's end, and of whether it is to serve.
//!
//! Sources: EC2 Auto Scaling user guide, "Retrieve the target lifecycle state through instance
//! metadata"; EC2 user guide, "Spot Instance interruption notices" and "EC2 instance rebalance
//! recommendations".

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use crate::ids::Malformed;
use crate::lifecycle::{Aside, TargetState};

/// All of it, as far as it has been read. Nothing of it is taken back but `aside`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// What keeps the instance from serving for now.
    pub aside: Option<Aside>,
    /// That the group is terminating the instance.
    pub terminated: bool,
    /// That EC2 takes a Spot Instance back.
    pub interruption: Option<Interruption>,
    /// That EC2 is about to; when it said so.
    pub rebalance: Option<Time>,
}

/// What an instance is to do about the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It holds those of its zone.
    Serve,
    /// Others are to have them, until it serves again.
    StandAside,
    /// Others are to have them, for good.
    Leave,
}

impl Notices {
    /// What they come to; `on_rebalance`: whether a recommendation to rebalance is a reason to
    /// leave.
    pub fn duty(&self, on_rebalance: bool) -> Duty {
        let rebalanced = on_rebalance && self.rebalance.is_some();
        if self.terminated || self.interruption.is_some() || rebalanced {
            Duty::Leave
        } else if self.aside.is_some() {
            Duty::StandAside
        } else {
            Duty::Serve
        }
    }

    /// Takes in where the group is taking the instance, and says whether that is news. That IMDS
    /// has no target, or one that nobody knows, says nothing: a route is not taken because of it.
    pub fn take_in(&mut self, target: Option<&TargetState>) -> bool {
        let before = (self.terminated, self.aside);
        if let Some(target) = target {
            if target.is_terminated() {
                self.terminated = true;
            } else if target.is_in_service() || target.aside().is_some() {
                self.aside = target.aside();
            }
        }
        before != (self.terminated, self.aside)
    }
}

/// A moment as AWS writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Time(String);

impl FromStr for Time {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match humantime::parse_rfc3339(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(Malformed::new("a time such as 2017-09-18T08:22:00Z", text)),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The notice that a Spot Instance gets two minutes ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// What EC2 will do with the instance.
    pub action: End,
    /// When, where it says so: that is shown to people, and nothing depends on it.
    pub time: Option<Time>,
}

/// What becomes of an interrupted instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It is gone.
    Terminate,
    /// It may come back.
    Stop,
    /// It may come back as it was.
    Hibernate,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "terminate",
            Self::Stop => "stop",
            Self::Hibernate => "hibernate",
        })
    }
}

impl FromStr for Interruption {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Notice {
            action: End,
            #[serde(default)]
            time: Value,
        }
        let notice: Notice = serde_json::from_str(text)
            .map_err(|_| Malformed::new("a notice with an action", text))?;
        Ok(Self {
            action: notice.action,
            time: notice.time.as_str().and_then(|time| time.parse().ok()),
        })
    }
}

/// When EC2 recommended to rebalance a Spot Instance. Sources: as above.
pub fn recommendation(text: &str) -> Result<Time, Malformed> {
    #[derive(Deserialize)]
    struct Recommendation {
        #[serde(rename = "noticeTime")]
        notice_time: String,
    }
    let found: Recommendation = serde_json::from_str(text)
        .map_err(|_| Malformed::new("a recommendation with a noticeTime", text))?;
    found.notice_time.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_followed_and_an_end_is_final() {
        let mut notices = Notices::default();
        let mut follow = |target: Option<&str>| {
            let target = target.map(|text| text.parse().unwrap());
            let news = notices.take_in(target.as_ref());
            (news, notices.duty(false))
        };
        assert_eq!(follow(Some("InService")), (false, Duty::Serve));
        assert_eq!(follow(Some("Standby")), (true, Duty::StandAside));
        assert_eq!(follow(None), (false, Duty::StandAside));
        assert_eq!(follow(Some("Retired:Elsewhere")), (false, Duty::StandAside));
        assert_eq!(follow(Some("InService")), (true, Duty::Serve));
        assert_eq!(follow(Some("Warmed:Running")), (true, Duty::StandAside));
        assert_eq!(follow(Some("Detached")), (true, Duty::StandAside));
        assert_eq!(follow(Some("Terminated")), (true, Duty::Leave));
        assert_eq!(follow(Some("InService")), (true, Duty::Leave));
        assert_eq!(follow(Some("Terminated")), (false, Duty::Leave));
    }

    #[test]
    fn any_notice_of_the_end_outweighs_the_rest() {
        let rebalance = Notices {
            rebalance: Some(Time("2020-10-27T08:22:00Z".to_owned())),
            aside: Some(Aside::Standby),
            ..Notices::default()
        };
        assert_eq!(rebalance.duty(true), Duty::Leave);
        assert_eq!(rebalance.duty(false), Duty::StandAside);
        let interrupted = Notices {
            interruption: r#"{"action": "stop"}"#.parse().ok(),
            ..rebalance
        };
        assert_eq!(interrupted.duty(false), Duty::Leave);
    }

    #[test]
    fn notices_as_the_guide_shows_them() {
        let notice = r#"{"action": "terminate", "time": "2017-09-18T08:22:00Z"}"#;
        let notice: Interruption = notice.parse().unwrap();
        assert_eq!(notice.action, End::Terminate);
        assert_eq!(notice.time.unwrap().to_string(), "2017-09-18T08:22:00Z");
        let time = recommendation(r#"{"noticeTime": "2020-10-27T08:22:00Z"}"#).unwrap();
        assert_eq!(time.to_string(), "2020-10-27T08:22:00Z");
    }

    #[test]
    fn an_odd_time_hides_no_notice() {
        for text in [
            r#"{"action": "stop"}"#,
            r#"{"action": "stop", "time": "soon"}"#,
            r#"{"action": "stop", "time": 5}"#,
        ] {
            let notice: Interruption = text.parse().unwrap();
            assert_eq!((notice.action, notice.time), (End::Stop, None), "{text}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "{}",
            r#"{"action": "explode", "time": "2017-09-18T08:22:00Z"}"#,
        ] {
            assert!(text.parse::<Interruption>().is_err(), "{text}");
        }
        assert!(recommendation(r#"{"noticeTime": "\u0000"}"#).is_err());
        assert!(recommendation("[]").is_err());
    }
}
