//! What the user wants of the kernel's connection table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::given;
use crate::commands::cli::ConntrackArgs;
use crate::kernel::{ConnectionTable, Timeout};

/// Checks what the flags say.
pub fn connection_table(args: &ConntrackArgs) -> Result<ConnectionTable> {
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
    Ok(ConnectionTable {
        max,
        buckets,
        timeouts,
    })
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
