//! The settings under /proc/sys that a NAT needs, and why each has the value it has.
//!
//! What they mean: the kernel's Documentation/networking/ip-sysctl.rst and
//! nf_conntrack-sysctl.rst.

mod connections;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, anyhow, bail};

use crate::kernel::ConnectionTable;

pub use connections::memory;

/// The kernel rounds buckets up to whole pages, of at most 64 KiB on arm64, of 8 bytes each.
const BUCKETS_ROUNDING: u64 = 8192;

/// A setting that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
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
    pub changes: Vec<Write>,
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
        plan.changes.extend(Write::to(&path, Some(now), want));
    }
    // The stricter of the two counts. Strict drops what comes in where its answer would not go
    // out, which is legitimate with several interfaces; loose asks only for any way back.
    let all = "net/ipv4/conf/all/rp_filter";
    let own = format!("net/ipv4/conf/{interface}/rp_filter");
    let (of_all, of_own) = (required(all, &read)?.value, required(&own, &read)?.value);
    if of_all.max(of_own) == 1 {
        let loose = Want::Exactly(2);
        plan.changes.extend(Write::to(&own, Some(of_own), loose));
    }
    for wanted in connections::wanted(table, memory) {
        let path = wanted.path;
        let found = read(path)?;
        let now = found.map(|found| found.value);
        let Some(change) = Write::to(path, now, wanted.value) else {
            continue;
        };
        let to = change.to;
        if found.is_none_or(|found| found.writable) {
            plan.changes.push(change);
        } else if wanted.asked_for {
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

impl Write {
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

impl std::fmt::Display for Write {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Timeout;
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
                "net.netfilter.nf_conntrack_tcp_be_liberal → 1",
                "net.netfilter.nf_conntrack_tcp_loose → 1",
                "net.netfilter.nf_conntrack_tcp_timeout_established → 7440",
                "net.netfilter.nf_conntrack_tcp_timeout_close_wait → 240",
                "net.netfilter.nf_conntrack_tcp_timeout_fin_wait → 240",
                "net.netfilter.nf_conntrack_tcp_timeout_last_ack → 240",
                "net.netfilter.nf_conntrack_udp_timeout → 120",
                "net.netfilter.nf_conntrack_udp_timeout_stream → 350",
                "net.netfilter.nf_conntrack_icmp_timeout → 60",
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

    const NETFILTER: &str = "net/netfilter/nf_conntrack_";

    /// The connection table as hanat leaves it, but for some settings.
    fn of_left_table(but: &[(&str, u64)], table: &ConnectionTable) -> Vec<String> {
        let wanted = connections::wanted(&ConnectionTable::default(), GIB);
        let left = wanted.iter().map(|wanted| {
            let value = wanted.value.instead_of(None).unwrap();
            (wanted.path, value)
        });
        let paths: Vec<String> = but
            .iter()
            .map(|(name, _)| format!("{NETFILTER}{name}"))
            .collect();
        let but = paths
            .iter()
            .map(String::as_str)
            .zip(but.iter().map(|(_, value)| *value));
        let values: Vec<(&str, u64)> = left.chain(but).collect();
        of_table(&values, table, GIB)
    }

    #[test]
    fn what_is_left_stays() {
        assert!(of_left_table(&[], &ConnectionTable::default()).is_empty());
    }

    #[test]
    fn larger_tables_and_shorter_or_more_patient_times_stay() {
        let larger = 1 << 23;
        let but = [
            ("max", larger),
            ("buckets", larger),
            ("tcp_timeout_established", 600),
            ("tcp_timeout_close_wait", 3600),
            ("udp_timeout", 121),
            ("udp_timeout_stream", 351),
            ("icmp_timeout", 61),
        ];
        assert!(of_left_table(&but, &ConnectionTable::default()).is_empty());
    }

    #[test]
    fn the_kernels_own_times_are_too_short_or_too_long() {
        let but = [
            ("tcp_be_liberal", 0),
            ("tcp_loose", 0),
            ("tcp_timeout_established", 432_000),
            ("tcp_timeout_close_wait", 60),
            ("tcp_timeout_fin_wait", 120),
            ("tcp_timeout_last_ack", 30),
            ("udp_timeout", 30),
            ("udp_timeout_stream", 120),
            ("icmp_timeout", 30),
        ];
        let changes = of_left_table(&but, &ConnectionTable::default());
        assert_eq!(changes.len(), but.len(), "{changes:?}");
    }

    #[test]
    fn what_the_user_asks_for_is_set_either_way() {
        let table = ConnectionTable {
            max: Some(10_000),
            buckets: Some(5000),
            timeouts: [(Timeout::Established, 86_400), (Timeout::Udp, 30)].into(),
        };
        for now in [1, 1 << 23] {
            let names = ["max", "buckets", "tcp_timeout_established", "udp_timeout"];
            let changes = of_left_table(&names.map(|name| (name, now)), &table);
            assert_eq!(changes.len(), 4, "{now}: {changes:?}");
        }
        // The kernel made 5000 a whole number of pages.
        let but = [
            ("max", 10_000),
            ("buckets", 5120),
            ("tcp_timeout_established", 86_400),
            ("udp_timeout", 30),
        ];
        assert!(of_left_table(&but, &table).is_empty());
    }
}
