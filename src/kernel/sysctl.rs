//! The settings under /proc/sys that a NAT needs, and why each has the value it has.
//!
//! What they mean: the kernel's Documentation/networking/ip-sysctl.rst and
//! nf_conntrack-sysctl.rst.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, anyhow, bail};

use crate::config::ConnectionTable;

const MAX: &str = "net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "net/netfilter/nf_conntrack_buckets";
const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";

/// A connection takes two slab objects, 256 bytes and 128 for its extensions, and a bucket 8: a
/// full table of one connection per 4 KiB takes a tenth of the memory. The kernel's own size
/// suits hosts that forward nothing: up to 1 GiB one connection per 128 KiB, 4096 on the smallest
/// instances (`nf_conntrack_init_start`).
const MEMORY_PER_CONNECTION: u64 = 4096;

/// No table is made smaller or larger than this by itself. 64 Ki is what one destination can have
/// from one address; 4 Mi is a tenth of 16 GiB.
const CONNECTIONS: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 22;

/// The kernel rounds buckets up to whole pages, of at most 64 KiB on arm64, of 8 bytes each.
const BUCKETS_ROUNDING: u64 = 8192;

/// In seconds. RFC 5382, REQ-5: a NAT keeps an established connection that is silent for at
/// least 2 hours and 4 minutes, so that a keep-alive after the usual 2 hours finds it. The kernel
/// keeps it for 5 days, in which dead ones pile up.
const ESTABLISHED_TIMEOUT: u64 = 2 * 3600 + 4 * 60;

/// A setting that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path below /proc/sys.
    path: String,
    /// Absent where the kernel makes it only together with the table's rules.
    from: Option<u64>,
    to: u64,
}

/// What is to be changed, and what would be and cannot.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order to make them in.
    pub changes: Vec<Change>,
    /// Each with its reason, for the log.
    pub out_of_reach: Vec<String>,
}

/// A setting as found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    value: u64,
    /// Whether anybody can write it here: the sizes of the connection table are those of the
    /// whole machine and can be read only in a network namespace other than the first
    /// (`net/netfilter/nf_conntrack_standalone.c`).
    writable: bool,
}

/// What a value has to be.
#[derive(Clone, Copy)]
enum Want {
    Exactly(u64),
    AtLeast(u64),
    AtMost(u64),
    RoundedUp(u64),
}

impl Want {
    /// The value to set, if the one there is will not do.
    fn instead_of(self, now: Option<u64>) -> Option<u64> {
        let (value, fine) = match self {
            Self::Exactly(value) => (value, now == Some(value)),
            Self::AtLeast(value) => (value, now >= Some(value)),
            Self::AtMost(value) => (value, now.is_some_and(|now| now <= value)),
            Self::RoundedUp(value) => {
                let rounded = value..value + BUCKETS_ROUNDING;
                (value, now.is_some_and(|now| rounded.contains(&now)))
            }
        };
        (!fine).then_some(value)
    }
}

/// Compares what is with what has to be. `memory` is the machine's, in bytes.
pub fn plan(
    interface: &str,
    table: &ConnectionTable,
    memory: u64,
    read: impl Fn(&str) -> Result<Option<Found>>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    for (path, want) in forwarding(interface) {
        let now = required(&path, &read)?.value;
        plan.changes.extend(Change::to(&path, Some(now), want));
    }
    // The stricter of the two counts. Strict drops what comes in where its answer would not go
    // out, which is legitimate with several interfaces; loose asks only for any way back.
    let all = "net/ipv4/conf/all/rp_filter";
    let own = format!("net/ipv4/conf/{interface}/rp_filter");
    let (of_all, of_own) = (required(all, &read)?.value, required(&own, &read)?.value);
    if of_all.max(of_own) == 1 {
        let loose = Want::Exactly(2);
        plan.changes.extend(Change::to(&own, Some(of_own), loose));
    }
    for (path, want, asked_for) in connection_table(table, memory) {
        let found = read(path)?;
        let now = found.map(|found| found.value);
        let Some(change) = Change::to(path, now, want) else {
            continue;
        };
        let to = change.to;
        if found.is_none_or(|found| found.writable) {
            plan.changes.push(change);
        } else if asked_for {
            bail!(
                "{} cannot be set to {to} here: it is the whole machine's, and this is a network \
                 namespace of its own",
                name(path)
            );
        } else {
            plan.out_of_reach.push(format!(
                "{} is {} instead of {to}, and cannot be set from within a network namespace",
                name(path),
                now.unwrap_or_default()
            ));
        }
    }
    Ok(plan)
}

/// Forwarding, and no redirects: in a VPC nobody should be told of a shorter way. The order
/// matters, since switching forwarding on sets others back.
fn forwarding(interface: &str) -> Vec<(String, Want)> {
    let mut wanted = vec![("net/ipv4/ip_forward".to_owned(), Want::Exactly(1))];
    let mut conf = |of: &str, name: &str, value| {
        let path = format!("net/ipv4/conf/{of}/{name}");
        wanted.push((path, Want::Exactly(value)));
    };
    // A network manager may have switched it off for one interface.
    conf(interface, "forwarding", 1);
    // Either one being on counts.
    conf("all", "send_redirects", 0);
    conf(interface, "send_redirects", 0);
    // Both being on counts while forwarding.
    conf(interface, "accept_redirects", 0);
    wanted
}

/// With whether the user asked for the value. A table that is larger than it has to be is left
/// alone, and so is a shorter timeout.
fn connection_table(table: &ConnectionTable, memory: u64) -> [(&'static str, Want, bool); 3] {
    let fits = memory / MEMORY_PER_CONNECTION / BUCKETS_ROUNDING * BUCKETS_ROUNDING;
    let fits = fits.clamp(*CONNECTIONS.start(), *CONNECTIONS.end());
    let max = table.max.map(u64::from);
    let buckets = table.buckets.map(u64::from);
    let established = table.established.map(|time| time.as_secs());
    [
        // As many buckets as connections, like the kernel: short chains even when it is full.
        (
            BUCKETS,
            buckets.map_or(Want::AtLeast(max.unwrap_or(fits)), Want::RoundedUp),
            buckets.is_some(),
        ),
        (
            MAX,
            max.map_or(Want::AtLeast(fits), Want::Exactly),
            max.is_some(),
        ),
        (
            ESTABLISHED,
            established.map_or(Want::AtMost(ESTABLISHED_TIMEOUT), Want::Exactly),
            established.is_some(),
        ),
    ]
}

/// Whether this instance forwards what comes in by the interface.
pub fn forwards(interface: &str, read: impl Fn(&str) -> Result<Option<Found>>) -> Result<bool> {
    let all = required("net/ipv4/ip_forward", &read)?;
    let own = required(&format!("net/ipv4/conf/{interface}/forwarding"), &read)?;
    Ok(all.value == 1 && own.value == 1)
}

fn required(path: &str, read: impl Fn(&str) -> Result<Option<Found>>) -> Result<Found> {
    read(path)?.ok_or_else(|| anyhow!("reading {}: no /proc/sys/{path}", name(path)))
}

/// Reads a setting; none where there is no such file.
pub fn read(path: &str) -> Result<Option<Found>> {
    let file = format!("/proc/sys/{path}");
    let context = || format!("reading {}", name(path));
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(context)?,
    };
    let value = text.trim();
    let value = value
        .parse()
        .with_context(|| format!("{value:?}"))
        .with_context(context)?;
    let mode = fs::metadata(&file)
        .with_context(context)?
        .permissions()
        .mode();
    Ok(Some(Found {
        value,
        writable: mode & 0o222 != 0,
    }))
}

impl Change {
    /// The change to what is wanted, if what is there will not do.
    fn to(path: &str, from: Option<u64>, want: Want) -> Option<Self> {
        let to = want.instead_of(from)?;
        let path = path.to_owned();
        Some(Self { path, from, to })
    }

    /// Sets it.
    pub fn make(&self) -> Result<()> {
        fs::write(format!("/proc/sys/{}", self.path), self.to.to_string()).with_context(|| {
            let missing = match self.from {
                Some(_) => "",
                None => " (it has appeared neither before nor with the rules)",
            };
            format!("setting {} to {}{missing}", name(&self.path), self.to)
        })
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", name(&self.path))?;
        match self.from {
            Some(from) => write!(f, " {from} → {}", self.to),
            None => write!(f, " → {}", self.to),
        }
    }
}

/// As `sysctl` spells it.
fn name(path: &str) -> String {
    path.replace('/', ".")
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
    use std::collections::HashMap;

    const GIB: u64 = 1 << 30;

    /// A machine as it boots, but for some settings.
    fn planned(but: &[(&str, u64)], table: &ConnectionTable, memory: u64) -> Result<Vec<String>> {
        let mut values: HashMap<&str, u64> = HashMap::from([
            ("net/ipv4/ip_forward", 0),
            ("net/ipv4/conf/ens5/forwarding", 0),
            ("net/ipv4/conf/all/send_redirects", 1),
            ("net/ipv4/conf/ens5/send_redirects", 1),
            ("net/ipv4/conf/ens5/accept_redirects", 1),
            ("net/ipv4/conf/all/rp_filter", 0),
            ("net/ipv4/conf/ens5/rp_filter", 0),
        ]);
        values.extend(but.iter().copied());
        let read = |path: &str| {
            let value = values.get(path).copied();
            Ok(value.map(|value| Found {
                value,
                writable: true,
            }))
        };
        let plan = plan("ens5", table, memory, read)?;
        Ok(plan.changes.iter().map(ToString::to_string).collect())
    }

    fn of_table(but: &[(&str, u64)], table: &ConnectionTable, memory: u64) -> Vec<String> {
        let mut changes = planned(but, table, memory).unwrap();
        changes.retain(|change| change.contains("conntrack"));
        changes
    }

    #[test]
    fn everything_on_a_fresh_machine() {
        let changes = planned(&[], &ConnectionTable::default(), GIB / 2).unwrap();
        assert_eq!(
            changes,
            [
                "net.ipv4.ip_forward 0 → 1",
                "net.ipv4.conf.ens5.forwarding 0 → 1",
                "net.ipv4.conf.all.send_redirects 1 → 0",
                "net.ipv4.conf.ens5.send_redirects 1 → 0",
                "net.ipv4.conf.ens5.accept_redirects 1 → 0",
                "net.netfilter.nf_conntrack_buckets → 131072",
                "net.netfilter.nf_conntrack_max → 131072",
                "net.netfilter.nf_conntrack_tcp_timeout_established → 7440",
            ]
        );
    }

    #[test]
    fn strict_reverse_path_filters_become_loose() {
        for (all, own, changed) in [
            (0, 0, false),
            (0, 1, true),
            (1, 0, true),
            (1, 1, true),
            (1, 2, false),
            (2, 0, false),
            (2, 1, false),
        ] {
            let but = [
                ("net/ipv4/conf/all/rp_filter", all),
                ("net/ipv4/conf/ens5/rp_filter", own),
            ];
            let changes = planned(&but, &ConnectionTable::default(), GIB).unwrap();
            let change = format!("net.ipv4.conf.ens5.rp_filter {own} → 2");
            assert_eq!(changes.contains(&change), changed, "{all} {own}");
            assert_eq!(changes.iter().any(|c| c.contains("rp_filter")), changed);
        }
    }

    #[test]
    fn the_connection_table_follows_the_memory() {
        for (memory, connections) in [
            (GIB / 8, 65_536),
            // What Linux leaves of 512 MiB.
            (430 << 20, 106_496),
            (4 * GIB, 1_048_576),
            (64 * GIB, 4_194_304),
        ] {
            let changes = of_table(&[], &ConnectionTable::default(), memory);
            let max = format!("net.netfilter.nf_conntrack_max → {connections}");
            let buckets = format!("net.netfilter.nf_conntrack_buckets → {connections}");
            assert!(changes.contains(&max), "{memory}: {changes:?}");
            assert!(changes.contains(&buckets), "{memory}: {changes:?}");
        }
    }

    #[test]
    fn larger_tables_and_shorter_timeouts_stay() {
        let but = [(MAX, 1 << 23), (BUCKETS, 1 << 23), (ESTABLISHED, 600)];
        assert!(of_table(&but, &ConnectionTable::default(), GIB).is_empty());
    }

    #[test]
    fn what_the_user_asks_for_is_set_either_way() {
        let table = ConnectionTable {
            max: Some(10_000),
            buckets: Some(5000),
            established: Some(std::time::Duration::from_hours(24)),
        };
        for now in [1, 1 << 23] {
            let but = [(MAX, now), (BUCKETS, now), (ESTABLISHED, now)];
            assert_eq!(of_table(&but, &table, GIB).len(), 3, "{now}");
        }
        // The kernel made 5000 a whole number of pages.
        let but = [(MAX, 10_000), (BUCKETS, 5120), (ESTABLISHED, 86_400)];
        assert!(of_table(&but, &table, GIB).is_empty());
    }

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
