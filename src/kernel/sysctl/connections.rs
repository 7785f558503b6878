//! What the connection table's settings have to be: as large as the machine's memory bears, as
//! patient as is asked of NATs, and no judge of what it carries.

use std::fs;
use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use super::{BUCKETS_ROUNDING, Want};
use crate::kernel::{ConnectionTable, Timeout};

/// A connection takes two slab objects, 256 bytes and 128 for its extensions, and a bucket 8: a
/// full table of one connection per 4 KiB takes a tenth of the memory. The kernel's own size
/// suits hosts that forward nothing: up to 1 GiB one connection per 128 KiB, 4096 on the smallest
/// instances (`nf_conntrack_init_start`).
const MEMORY_PER_CONNECTION: u64 = 4096;

/// No table is made smaller or larger than this by itself. 64 Ki is what one destination can have
/// from one address; 4 Mi is a tenth of 16 GiB.
const CONNECTIONS: RangeInclusive<u64> = 1 << 16..=1 << 22;

/// All times that are looked after.
const TIMEOUTS: [Timeout; 7] = [
    Timeout::Established,
    Timeout::CloseWait,
    Timeout::FinWait,
    Timeout::LastAck,
    Timeout::Udp,
    Timeout::UdpStream,
    Timeout::Icmp,
];

/// A setting of the connection table.
pub struct Wanted {
    /// Below /proc/sys.
    pub path: &'static str,
    pub value: Want,
    /// Whether the user asked for it.
    pub asked_for: bool,
}

/// All of them. What a flag asks for is set exactly; else what is larger than it has to be is left
/// alone, and so is a shorter time for established connections.
pub fn wanted(table: &ConnectionTable, memory: u64) -> Vec<Wanted> {
    let fits = memory / MEMORY_PER_CONNECTION / BUCKETS_ROUNDING * BUCKETS_ROUNDING;
    let fits = fits.clamp(*CONNECTIONS.start(), *CONNECTIONS.end());
    let max = table.max.map(u64::from);
    let buckets = table.buckets.map(u64::from);
    let mut wanted = vec![
        // As many buckets as connections, like the kernel: short chains even when it is full.
        Wanted {
            path: "net/netfilter/nf_conntrack_buckets",
            value: buckets.map_or(Want::AtLeast(max.unwrap_or(fits)), Want::RoundedUp),
            asked_for: buckets.is_some(),
        },
        Wanted {
            path: "net/netfilter/nf_conntrack_max",
            value: max.map_or(Want::AtLeast(fits), Want::Exactly),
            asked_for: max.is_some(),
        },
        // What the ends of a connection make of a segment outside of the window is theirs to judge:
        // one that is taken for invalid is not translated, and so does not get through. Of a RST
        // the kernel still asks that it fits.
        Wanted {
            path: "net/netfilter/nf_conntrack_tcp_be_liberal",
            value: Want::AtLeast(1),
            asked_for: false,
        },
        // A connection that was forgotten is taken up in the middle, as after a reboot. The kernel
        // does so by itself, unless somebody turns it off.
        Wanted {
            path: "net/netfilter/nf_conntrack_tcp_loose",
            value: Want::AtLeast(1),
            asked_for: false,
        },
    ];
    wanted.extend(TIMEOUTS.into_iter().map(|timeout| {
        let (path, by_itself) = time(timeout);
        let asked_for = table.timeouts.get(&timeout);
        Wanted {
            path,
            value: asked_for.map_or(by_itself, |seconds| Want::Exactly(*seconds)),
            asked_for: asked_for.is_some(),
        }
    }));
    wanted
}

/// Its setting, and the seconds that it has to have where nobody asks for others.
///
/// The times of connections that are not open yet, or not any more, are left as they are: each SYN
/// that is sent again renews `syn_sent` (120 s), and clients wait for 64 s at most in between;
/// `time_wait` (120 s) is twice what Linux itself keeps. Longer ones would fill the table with what
/// is over.
fn time(timeout: Timeout) -> (&'static str, Want) {
    match timeout {
        // RFC 5382, REQ-5: a NAT keeps an established connection that is silent for at least 2
        // hours and 4 minutes, so that a keep-alive after the usual 2 hours finds it. The kernel
        // keeps it for 5 days, in which dead ones pile up.
        Timeout::Established => (
            "net/netfilter/nf_conntrack_tcp_timeout_established",
            Want::AtMost(2 * 3600 + 4 * 60),
        ),
        // The same REQ-5: one that is closed by one end only, 4 minutes. The kernel: 60 s, 120 s
        // and 30 s.
        Timeout::CloseWait => (
            "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            Want::AtLeast(4 * 60),
        ),
        Timeout::FinWait => (
            "net/netfilter/nf_conntrack_tcp_timeout_fin_wait",
            Want::AtLeast(4 * 60),
        ),
        Timeout::LastAck => (
            "net/netfilter/nf_conntrack_tcp_timeout_last_ack",
            Want::AtLeast(4 * 60),
        ),
        // RFC 4787, REQ-5: no less than 2 minutes. The kernel: 30 s.
        Timeout::Udp => (
            "net/netfilter/nf_conntrack_udp_timeout",
            Want::AtLeast(2 * 60),
        ),
        // The same REQ-5 recommends 5 minutes or more; a NAT gateway keeps what is silent for 350 s
        // (Amazon VPC user guide, "Troubleshoot NAT gateways"). The kernel: 120 s.
        Timeout::UdpStream => (
            "net/netfilter/nf_conntrack_udp_timeout_stream",
            Want::AtLeast(350),
        ),
        // RFC 5508, REQ-2: no less than 60 seconds. The kernel: 30 s.
        Timeout::Icmp => ("net/netfilter/nf_conntrack_icmp_timeout", Want::AtLeast(60)),
    }
}

/// The machine's memory in bytes.
pub fn memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    parse_memory(&text).context("reading /proc/meminfo: there is no MemTotal in kB")
}

fn parse_memory(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_or_missed() {
        let text = "MemTotal:         484324 kB\nMemFree:          100000 kB\n";
        assert_eq!(parse_memory(text), Some(484_324 << 10));
        for garbled in [
            "",
            "MemTotal: much\n",
            "MemTotal: 18446744073709551615 kB\n",
        ] {
            assert_eq!(parse_memory(garbled), None, "{garbled}");
        }
    }
}
