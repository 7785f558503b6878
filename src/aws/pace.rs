//! A token bucket that keeps calls inside EC2's own request buckets: waiting a moment before a
//! call costs less than being throttled after it.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Hands out turns: a burst at once, then so many a second.
#[derive(Debug)]
pub struct Pace {
    bucket: Mutex<Bucket>,
}

impl Pace {
    /// `burst` turns at once, `refill` turns a second from then on.
    pub fn new((burst, refill): (f64, f64)) -> Self {
        Self {
            bucket: Mutex::new(Bucket {
                burst,
                refill,
                tokens: burst,
                at: Instant::now(),
            }),
        }
    }

    /// Waits for a turn. Turns are given in the order of asking.
    pub async fn turn(&self) {
        let wait = {
            // A bucket is whole whenever it is let go, so a poisoned lock changes nothing.
            let mut bucket = self
                .bucket
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            bucket.take(Instant::now())
        };
        tokio::time::sleep(wait).await;
    }
}

#[derive(Debug)]
struct Bucket {
    burst: f64,
    /// Tokens a second.
    refill: f64,
    /// Below zero: promised to those who wait.
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Takes a token, on credit if there is none, and says how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.refill).min(self.burst) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens / self.refill).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(burst: f64, refill: f64, at: Instant) -> Bucket {
        Bucket {
            burst,
            refill,
            tokens: burst,
            at,
        }
    }

    #[test]
    fn a_burst_then_the_refill() {
        let start = Instant::now();
        let mut bucket = bucket(2.0, 5.0, start);
        let waits: Vec<u128> = (0..4).map(|_| bucket.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 200, 400]);
    }

    #[test]
    fn tokens_come_back_up_to_the_burst() {
        let start = Instant::now();
        let mut bucket = bucket(2.0, 5.0, start);
        for _ in 0..2 {
            bucket.take(start);
        }
        let later = start + Duration::from_hours(1);
        let waits: Vec<u128> = (0..3).map(|_| bucket.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 200]);
    }

    /// Whether EC2's bucket (50, then 5 a second, full at the first arrival) serves them all.
    fn served(mut arrivals: Vec<Duration>) -> bool {
        arrivals.sort();
        let (mut tokens, mut last) = (50.0_f64, arrivals[0]);
        arrivals.into_iter().all(|at| {
            tokens = (tokens + at.saturating_sub(last).as_secs_f64() * 5.0).min(50.0) - 1.0;
            last = at;
            tokens > -1e-6
        })
    }

    proptest! {
        /// EC2's own bucket never runs dry, even where calls take up to half a second more or
        /// less to get there than the first one did.
        #[test]
        fn the_service_never_throttles(
            calls in proptest::collection::vec((0_u64..400, 0_u64..500), 1..300)
        ) {
            let start = Instant::now();
            let (burst, refill) = crate::aws::ec2::ROUTE_CALLS;
            let mut ours = bucket(burst, refill, start);
            let mut arrivals: Vec<Duration> = Vec::new();
            let mut now = start;
            for (gap, way) in calls {
                now += Duration::from_millis(gap);
                let sent = now.duration_since(start) + ours.take(now);
                arrivals.push(sent + Duration::from_millis(way));
            }
            prop_assert!(served(arrivals));
        }

        #[test]
        fn a_burst_at_once_is_not_throttled_either(ways in proptest::collection::vec(0_u64..500, 300)) {
            let start = Instant::now();
            let (burst, refill) = crate::aws::ec2::ROUTE_CALLS;
            let mut ours = bucket(burst, refill, start);
            let arrivals: Vec<Duration> = ways
                .into_iter()
                .map(|way| ours.take(start) + Duration::from_millis(way))
                .collect();
            prop_assert!(served(arrivals));
        }
    }
}
