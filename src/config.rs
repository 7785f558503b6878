//! Validated settings: every deadline, interval and limit with its unit and its reason. Flags
//! come in raw; whatever leaves here has been checked and is not checked again.

mod claim;
mod conntrack;
mod drain;
mod kernel;
mod watch;

use std::time::Duration;

use anyhow::{Result, ensure};

pub use claim::ClaimSettings;
pub use conntrack::{ConnectionTable, Timeout};
pub use drain::DrainSettings;
pub use kernel::{Kernel, KernelSetup};
pub use watch::WatchSettings;

/// How long a TCP connection (and TLS handshake) may take. AWS endpoints and IMDS answer within
/// tens of milliseconds; a lost SYN is sent again after 1 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one attempt at an AWS call may take, from sending to the last byte of the answer.
/// A page of 100 route tables takes well under a second; a connection that died silently must
/// not eat the run.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts at one AWS call: what ends them is the time that whoever makes it has.
pub const MAX_ATTEMPTS: u32 = u32::MAX;

/// First wait between two attempts at an AWS call, doubled (with full jitter) from then on.
pub const INITIAL_BACKOFF: Duration = Duration::from_millis(100);

/// Longest wait between two attempts at an AWS call.
pub const MAX_BACKOFF: Duration = Duration::from_secs(4);

/// How long one read of IMDS may take. It answers in about a millisecond when it is there.
pub const IMDS_TIMEOUT: Duration = Duration::from_secs(1);

/// The wait after a failed read of IMDS, so many failures after the first, for as long as the run
/// lasts: it throttles for a second or so, may come up later than a boot script, and without it
/// no hook can be answered.
pub fn imds_wait(failures: usize) -> Duration {
    const FIRST: [u64; 4] = [50, 200, 500, 1000];
    Duration::from_millis(*FIRST.get(failures).unwrap_or(&2000))
}

/// How long the SDK waits for credentials: longer than `ATTEMPT_TIMEOUT`, because running out
/// of that one is tried again, and running out of this one is final.
pub const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one egress probe may take, from connecting to the answer's header.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Wait between two rounds of egress probes. A public address that is still being associated
/// works within a few of these.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Calls that change routes, burst and refill a second. EC2's bucket holds 50 and refills 5 a
/// second for each account, region and call (EC2 API reference, "Request throttling"). A few
/// are left over, because calls may arrive closer together than they were sent.
pub const ROUTE_CALLS: (f64, f64) = (45.0, 5.0);

/// Route changes under way at once: enough to keep the bucket, not the network, the limit.
pub const ROUTE_CALLS_IN_FLIGHT: usize = 16;

/// First wait between two reads that verify, doubled up to `MAX_VERIFY_INTERVAL`. The first
/// read follows at once; EC2's reads are eventually consistent, mostly within a second.
pub const VERIFY_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait between two reads that verify: Describe calls refill at 20 a second.
pub const MAX_VERIFY_INTERVAL: Duration = Duration::from_secs(1);

/// How long EC2's reads may show what was before a change: mostly under a second, and nowhere
/// is a most given (EC2 API reference, "Eventual consistency"). At most a quarter of the deadline.
pub const READS_LAG: Duration = Duration::from_secs(10);

/// Wait between two looks at an instance that its group has not moved to `Pending:Wait` yet.
pub const PENDING_INTERVAL: Duration = Duration::from_millis(500);

/// What an internet gateway lets through, in bytes, while interfaces in a VPC take 9001. Source:
/// EC2 user guide, "Network maximum transmission unit (MTU) for your EC2 instance".
pub const IPV4_MTU: u32 = 1500;

/// Wait between two looks at the tables of an instance that leaves, and at whether its hook waits
/// yet. Describe calls refill at 20 a second for everybody in the account.
pub const LEAVING_INTERVAL: Duration = Duration::from_secs(1);

/// The same after one that failed, all its attempts included, and while there is nobody to hand
/// over to: each look at candidates takes five calls.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Wait between two claims of an instance that is in service and has not got all of its tables.
pub const CLAIM_INTERVAL: Duration = Duration::from_secs(30);

/// The same as `LEAVING_INTERVAL` once nothing leads to it any more.
pub const LEFT_INTERVAL: Duration = Duration::from_secs(10);

/// How long one step of what is done again and again may take, all its attempts included: what
/// stands in the way of one thing must not keep another from being done.
pub const STEP_TIME: Duration = Duration::from_secs(30);

/// How long Auto Scaling has to say which hook holds an instance that leaves. A hook waits for 30 s
/// at least.
pub const ASKING_TIME: Duration = Duration::from_secs(10);

/// How long each question about candidates may take; the one who they are has no other limit than
/// the whole's where there is no NAT gateway.
pub const CANDIDATE_TIME: Duration = Duration::from_secs(5);

/// How old a table may be that is changed because of what it showed, from when it was asked for.
pub const STALE_AFTER: Duration = Duration::from_secs(2);

/// How long changing routes may take before the candidates are looked at anew: EC2 takes 31 s for
/// 200 tables.
pub const HANDOVER_TIME: Duration = Duration::from_mins(1);

/// How long one that leaves reads back what EC2 accepted before it looks anew: somebody may have
/// given it back.
pub const READ_BACK_TIME: Duration = Duration::from_secs(10);

/// Kept of the time that a hook waits for handing routes over, and for the answer; at most half of
/// the time, and a tenth.
pub const HANDOVER_RESERVE: Duration = Duration::from_secs(30);

/// See `HANDOVER_RESERVE`.
pub const LAST_MOMENT: Duration = Duration::from_secs(5);

/// Instances in one question to Auto Scaling (API reference, `DescribeAutoScalingInstances`: 50).
pub const GROUP_MEMBERS: usize = 50;

fn owner_tag(key: &str) -> Result<String> {
    ensure!(
        !key.is_empty() && key.chars().count() <= 128,
        "--owner-tag {key:?}: a tag's key has 1 to 128 characters"
    );
    Ok(key.to_owned())
}

fn deadline(time: Duration) -> Result<Duration> {
    between(
        "--deadline",
        time,
        Duration::from_secs(1),
        Duration::from_hours(2),
    )
}

fn between(flag: &str, time: Duration, least: Duration, most: Duration) -> Result<Duration> {
    ensure!(
        (least..=most).contains(&time),
        "{flag} {}: must be between {} and {}",
        humantime::format_duration(time),
        humantime::format_duration(least),
        humantime::format_duration(most)
    );
    Ok(time)
}

/// Templates pass on what was left empty.
fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imds_is_asked_again_ever_more_slowly() {
        let waits: Vec<u128> = (0..6).map(|n| imds_wait(n).as_millis()).collect();
        assert_eq!(waits, [50, 200, 500, 1000, 2000, 2000]);
    }
}
