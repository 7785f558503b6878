//! What the user wants of the kernel's connection table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::given;
use crate::cli::ConntrackArgs;

/// What the user wants of the connection table; the rest follows from the machine's memory and from
/// what is asked of NATs.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTable {
    /// Most connections.
    pub max: Option<u32>,
    /// Buckets of the hash table that they are looked up in.
    pub buckets: Option<u32>,
    /// In whole seconds.
    pub timeouts: BTreeMap<Timeout, u64>,
}

/// How long a connection may be silent before the kernel forgets it, by what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timeout {
    /// TCP, open at both ends.
    Established,
    /// TCP, closed by one end, which the other has heard.
    CloseWait,
    /// TCP, closed by one end.
    FinWait,
    /// TCP, closed by both ends.
    LastAck,
    /// UDP, few datagrams.
    Udp,
    /// UDP, datagrams both ways for more than two seconds.
    UdpStream,
    /// ICMP, a query.
    Icmp,
}

impl ConnectionTable {
    /// Checks what the flags say.
    pub fn new(args: &ConntrackArgs) -> Result<Self> {
        let entries = |flag, text| given(text).map(|text| entries(flag, &text)).transpose();
        let max = entries("--conntrack-max", args.max.as_ref())?;
        let buckets = entries("--conntrack-buckets", args.buckets.as_ref())?;
        let mut timeouts = BTreeMap::new();
        for (timeout, flag, text) in [
            (
                Timeout::Established,
                "--conntrack-established",
                &args.established,
            ),
            (
                Timeout::CloseWait,
                "--conntrack-close-wait",
                &args.close_wait,
            ),
            (Timeout::FinWait, "--conntrack-fin-wait", &args.fin_wait),
            (Timeout::LastAck, "--conntrack-last-ack", &args.last_ack),
            (Timeout::Udp, "--conntrack-udp", &args.udp),
            (
                Timeout::UdpStream,
                "--conntrack-udp-stream",
                &args.udp_stream,
            ),
            (Timeout::Icmp, "--conntrack-icmp", &args.icmp),
        ] {
            if let Some(text) = given(text.as_ref()) {
                timeouts.insert(timeout, whole_seconds(flag, &text)?);
            }
        }
        Ok(Self {
            max,
            buckets,
            timeouts,
        })
    }

    /// Whether the user wants nothing in particular.
    pub fn is_default(&self) -> bool {
        self.max.is_none() && self.buckets.is_none() && self.timeouts.is_empty()
    }
}

/// Fewer than 1024 would stop the instance's own traffic; none at all means no limit. The kernel
/// counts in 32 bits with a sign.
fn entries(flag: &str, text: &str) -> Result<u32> {
    const MOST: u32 = i32::MAX.cast_unsigned();
    let number = text.parse().ok();
    let number = number.filter(|number| (1024..=MOST).contains(number));
    number.with_context(|| format!("{flag} {text:?}: must be a number from 1024 to {MOST}"))
}

/// The kernel counts in ticks, of which there may be 1000 a second, in 32 bits with a sign.
fn whole_seconds(flag: &str, text: &str) -> Result<u64> {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_hours(24 * 24);
    humantime::parse_duration(text)
        .ok()
        .filter(|time| (LEAST..=MOST).contains(time) && time.subsec_nanos() == 0)
        .map(|time| time.as_secs())
        .with_context(|| {
            format!("{flag} {text:?}: must be whole seconds, such as 2h, and 24 days at most")
        })
}
