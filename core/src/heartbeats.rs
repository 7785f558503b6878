//! A terminating hook that heartbeats keep waiting: until when it is sure to wait, when to send the next
//! one, and when its time is up.
//!
//! Source: EC2 Auto Scaling user guide, "Amazon EC2 Auto Scaling lifecycle hooks": each heartbeat begins
//! the hook's time-out anew, up to a limit that counts from its beginning.

use std::time::{Duration, Instant};

use crate::leaving::Hold;

/// Kept of the time that a hook waits for the answer, and at most a tenth of it.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// What a heartbeat gets even where the time is up.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// What came of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The hook waits anew.
    Counted,
    /// The hook does not wait any more.
    TooLate,
    /// Nobody knows: it was refused, or got no answer in time.
    Unknown,
}

/// A hook that was seen to wait.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    /// When it was seen.
    since: Instant,
    /// How long it waits after its beginning or a heartbeat.
    timeout: Duration,
    /// Until when it waits at most.
    most: Instant,
    /// Until when it waits without another heartbeat.
    sure: Instant,
    /// Whether the last one counted, and the next may, too.
    beats: bool,
}

impl Heartbeats {
    /// Of a hook with such a time-out and limit that was seen to wait at `since`.
    pub fn new(since: Instant, timeout: Duration, limit: Duration) -> Self {
        Self {
            since,
            timeout,
            most: since + limit,
            sure: since + timeout,
            beats: false,
        }
    }

    /// How long one that is sent `now` may take to be answered: what comes later than that delays
    /// the next one, or the answer to the hook.
    pub fn patience(&self, now: Instant) -> Duration {
        let left = self.last().saturating_duration_since(now);
        left.min(self.timeout / 3).max(LEAST_PATIENCE)
    }

    /// Takes in what came of one that was sent at `sent`. A heartbeat counts from when it was sent,
    /// for what its answer took is not known to be the way back.
    pub fn take_in(&mut self, sent: Instant, beat: Beat) -> Hold {
        self.beats = false;
        match beat {
            Beat::Counted => {
                self.sure = self.most.min(sent + self.timeout);
                self.beats = self.sure < self.most;
                Hold::For(self.since, self.most)
            }
            Beat::TooLate => Hold::No,
            Beat::Unknown => Hold::For(self.since, self.sure),
        }
    }

    /// When to send the next, after one that was sent at `sent`.
    pub fn next(&self, sent: Instant) -> Instant {
        self.last().min(sent + self.timeout / 3)
    }

    /// Whether the hook has to be answered `now`, whatever still leads here. An instance that stood
    /// still may find it waiting all the same, and tries one more heartbeat.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.last() && !self.beats
    }

    fn last(&self) -> Instant {
        let kept = LAST_MOMENT.min(self.timeout / 10);
        self.sure.checked_sub(kept).unwrap_or(self.since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(2);
    const LIMIT: Duration = Duration::from_mins(200);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_sent_at_once_and_each_next_after_a_third_of_the_time() {
        let began = Instant::now();
        let mut beats = Heartbeats::new(began, TIMEOUT, LIMIT);
        assert_eq!(beats.patience(began), secs(40));
        let hold = beats.take_in(began, Beat::Counted);
        assert_eq!(hold, Hold::For(began, began + LIMIT));
        assert_eq!(beats.next(began), began + secs(40));
        assert!(!beats.is_over(began + secs(40)));
    }

    #[test]
    fn without_answers_only_the_time_that_is_sure_counts() {
        let began = Instant::now();
        let mut beats = Heartbeats::new(began, TIMEOUT, LIMIT);
        beats.take_in(began, Beat::Counted);
        let hold = beats.take_in(began + secs(40), Beat::Unknown);
        assert_eq!(hold, Hold::For(began, began + TIMEOUT));
        assert_eq!(beats.next(began + secs(80)), began + secs(115));
        assert!(!beats.is_over(began + secs(114)));
        assert!(beats.is_over(began + secs(115)));
        assert_eq!(beats.patience(began + secs(114)), secs(1));
        assert_eq!(beats.patience(began + secs(300)), secs(1));
    }

    #[test]
    fn one_that_stood_still_tries_once_more() {
        let began = Instant::now();
        let mut beats = Heartbeats::new(began, TIMEOUT, LIMIT);
        beats.take_in(began, Beat::Counted);
        let late = began + secs(500);
        assert!(!beats.is_over(late), "the hook may have been told of");
        beats.take_in(late, Beat::Unknown);
        assert!(beats.is_over(late));
        assert_eq!(beats.take_in(late, Beat::TooLate), Hold::No);
    }

    #[test]
    fn no_heartbeat_goes_beyond_the_limit() {
        let began = Instant::now();
        let mut beats = Heartbeats::new(began, TIMEOUT, TIMEOUT);
        beats.take_in(began + secs(30), Beat::Counted);
        assert!(!beats.is_over(began + secs(114)));
        assert!(beats.is_over(began + secs(115)));
    }

    /// How a heartbeat fares: whether it gets there, after what time; whether its answer comes back.
    fn fate() -> impl Strategy<Value = (bool, u64, bool)> {
        (
            prop::bool::weighted(0.8),
            0..5_000_u64,
            prop::bool::weighted(0.8),
        )
    }

    proptest! {
        /// Against a group that counts by itself: whatever heartbeats and answers are lost or late, an
        /// instance that does not stand still answers while the hook still waits.
        #[test]
        fn the_hook_is_answered_before_its_time_is_up(
            timeout in 30..7_200_u64,
            times in 1..100_u32,
            fates in prop::collection::vec(fate(), 0..400),
        ) {
            let timeout = secs(timeout);
            let began = Instant::now();
            let limit = timeout * times;
            let mut beats = Heartbeats::new(began, timeout, limit);
            let mut waits_until = began + timeout;
            let mut now = began;
            let mut fates = fates.into_iter();
            loop {
                let sent = now;
                // Where none are left, nothing gets through any more.
                let (arrives, way, returns) = fates.next().unwrap_or((false, 0, false));
                let arrival = sent + Duration::from_millis(way);
                let patience = beats.patience(sent);
                let counts = arrives && arrival < waits_until;
                if counts {
                    waits_until = (arrival + timeout).min(began + limit);
                }
                let answered = arrives && returns && arrival + Duration::from_millis(way) <= sent + patience;
                let beat = match (answered, counts) {
                    (true, true) => Beat::Counted,
                    (true, false) => Beat::TooLate,
                    (false, _) => Beat::Unknown,
                };
                now = if answered { arrival + Duration::from_millis(way) } else { sent + patience };
                prop_assert_ne!(beat, Beat::TooLate, "it was asked for in time");
                beats.take_in(sent, beat);
                now = now.max(beats.next(sent));
                if beats.is_over(now) {
                    break;
                }
            }
            prop_assert!(now < waits_until, "{:?} late", now - waits_until);
            // And it is not hurried: all but what is kept, and a heartbeat's patience, is used.
            prop_assert!(now + LAST_MOMENT.min(timeout / 10) >= began + timeout);
        }
    }
}
