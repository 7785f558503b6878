//! Validated settings: every deadline, interval and limit with its unit and its reason. Flags
//! come in raw; whatever leaves here has been checked and is not checked again.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use reqwest::Url;

use crate::cli::ClaimArgs;

/// How long a TCP connection (and TLS handshake) may take. AWS endpoints and IMDS answer within
/// tens of milliseconds; a lost SYN is sent again after 1 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one attempt at an AWS call may take, from sending to the last byte of the answer.
/// A page of 100 route tables takes well under a second; a connection that died silently must
/// not eat the run.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts at one AWS call: the run's deadline is what ends them.
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

/// Wait between two looks at an instance that its group has not moved to `Pending:Wait` yet.
pub const PENDING_INTERVAL: Duration = Duration::from_millis(500);

/// Kept of the deadline for answering the lifecycle hook, whatever happened: two attempts.
const ANSWER_RESERVE: Duration = Duration::from_secs(10);

/// What an internet gateway lets through, in bytes, while interfaces in a VPC take 9001. Source:
/// EC2 user guide, "Network maximum transmission unit (MTU) for your EC2 instance".
pub const IPV4_MTU: u32 = 1500;

/// How many blocks `--source` may name.
const MOST_SOURCES: usize = 100;

/// What `hanat claim` is to do.
#[derive(Debug)]
pub struct Settings {
    /// Key of the owner tag.
    pub owner_tag: String,
    /// Whether a VPC without tagged tables is fine.
    pub allow_none: bool,
    /// Where the Internet is asked for an answer; empty means not at all.
    pub probe_urls: Vec<Url>,
    /// What to do about the kernel.
    pub kernel: Kernel,
    /// The launching hook to complete, where the user named it.
    pub lifecycle_hook: Option<String>,
    /// Time for the whole run.
    pub deadline: Duration,
    /// What is kept of it for the answer to the lifecycle hook, and granted after a signal.
    pub answer_time: Duration,
    /// Whether to stop before the first change.
    pub dry_run: bool,
}

/// What to do about the kernel.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// Make it a NAT.
    SetUp(KernelSetup),
    /// The image does; only check that it did.
    Foreign,
}

/// How the kernel is set up.
#[derive(Clone, Debug)]
pub struct KernelSetup {
    /// Whose packets are masqueraded; empty means everybody's.
    pub sources: Vec<Ipv4Net>,
    /// Sizes of the connection table.
    pub connection_table: ConnectionTable,
}

/// What the user wants of the connection table; the rest follows from the machine's memory.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTable {
    /// Most connections.
    pub max: Option<u32>,
    /// Buckets of the hash table that they are looked up in.
    pub buckets: Option<u32>,
    /// How long an established TCP connection may be silent, in whole seconds.
    pub established: Option<Duration>,
}

impl Settings {
    /// Checks what the flags say. Errors name the flag and what it was given.
    pub fn new(args: &ClaimArgs) -> Result<Self> {
        ensure!(
            !args.owner_tag.is_empty() && args.owner_tag.chars().count() <= 128,
            "--owner-tag {:?}: a tag's key has 1 to 128 characters",
            args.owner_tag
        );
        ensure!(
            (Duration::from_secs(1)..=Duration::from_hours(2)).contains(&args.deadline),
            "--deadline {}: must be between 1s and 2h",
            humantime::format_duration(args.deadline)
        );
        let probe_urls = if args.no_probe {
            Vec::new()
        } else {
            args.probe_urls
                .iter()
                .map(|url| probe_url(url).context("--probe-url"))
                .collect::<Result<_>>()?
        };
        let answer_time = ANSWER_RESERVE.min(args.deadline / 4);
        Ok(Self {
            owner_tag: args.owner_tag.clone(),
            allow_none: args.allow_none,
            probe_urls,
            kernel: kernel(args)?,
            // Templates pass on what was left empty.
            lifecycle_hook: args.lifecycle_hook.clone().filter(|hook| !hook.is_empty()),
            deadline: args.deadline,
            answer_time,
            dry_run: args.dry_run,
        })
    }
}

fn kernel(args: &ClaimArgs) -> Result<Kernel> {
    // Templates pass on what was left empty.
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let sources = args.sources.iter().filter(|block| !block.is_empty());
    let sources: Vec<Ipv4Net> = sources
        .map(|block| block.parse().with_context(|| format!("--source {block:?}")))
        .collect::<Result<_>>()?;
    // The kernel takes the rules in one message, and has to answer each.
    ensure!(
        sources.len() <= MOST_SOURCES,
        "--source: at most {MOST_SOURCES} blocks"
    );
    let max = given(&args.conntrack_max);
    let buckets = given(&args.conntrack_buckets);
    let established = given(&args.conntrack_established);
    if args.no_kernel {
        ensure!(
            sources.is_empty() && max.is_none() && buckets.is_none() && established.is_none(),
            "--no-kernel sets nothing up: --source and --conntrack-… have no place beside it"
        );
        return Ok(Kernel::Foreign);
    }
    let mut sources = Ipv4Net::aggregate(&sources);
    // Which is everybody.
    sources.retain(|block| block.prefix_len() > 0);
    Ok(Kernel::SetUp(KernelSetup {
        sources,
        connection_table: ConnectionTable {
            max: max.map(|n| entries("--conntrack-max", &n)).transpose()?,
            buckets: buckets
                .map(|n| entries("--conntrack-buckets", &n))
                .transpose()?,
            established: established.map(|time| whole_seconds(&time)).transpose()?,
        },
    }))
}

/// Fewer than 1024 would stop the instance's own traffic; none at all means no limit.
fn entries(flag: &str, text: &str) -> Result<u32> {
    let number = text.parse().ok().filter(|number| *number >= 1024);
    number.with_context(|| format!("{flag} {text:?}: must be a number from 1024 on"))
}

fn whole_seconds(text: &str) -> Result<Duration> {
    let time = humantime::parse_duration(text).ok();
    time.filter(|time| *time >= Duration::from_secs(1) && time.subsec_nanos() == 0)
        .with_context(|| {
            format!("--conntrack-established {text:?}: must be whole seconds, such as 2h")
        })
}

fn probe_url(text: &str) -> Result<Url> {
    let url: Url = text.parse().with_context(|| format!("{text:?}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("only http and https can be probed");
    }
    // It would end up in the log.
    if !url.username().is_empty() || url.password().is_some() {
        bail!("credentials in a URL are not supported");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn settings(flags: &[&str]) -> Result<Settings> {
        let cli = Cli::parse_from(["hanat", "claim"].iter().chain(flags));
        let Command::Claim(args) = cli.command;
        Settings::new(&args)
    }

    #[test]
    fn a_part_of_the_deadline_is_kept_for_the_hook() {
        let two_minutes = settings(&[]).unwrap();
        assert_eq!(two_minutes.answer_time, Duration::from_secs(10));
        let short = settings(&["--deadline", "4s"]).unwrap();
        assert_eq!(short.answer_time, Duration::from_secs(1));
    }

    #[test]
    fn imds_is_asked_again_ever_more_slowly() {
        let waits: Vec<u128> = (0..6).map(|n| imds_wait(n).as_millis()).collect();
        assert_eq!(waits, [50, 200, 500, 1000, 2000, 2000]);
    }

    #[test]
    fn nonsense_is_named() {
        for (flags, named) in [
            (["--deadline", "0s"], "--deadline"),
            (["--owner-tag", ""], "--owner-tag"),
            (
                ["--conntrack-established", "1500ms"],
                "--conntrack-established",
            ),
            (["--probe-url", "ftp://example.com/"], "--probe-url"),
            (["--probe-url", "not a url"], "--probe-url"),
            (["--probe-url", "http://u:p@example.com/"], "credentials"),
        ] {
            let error = format!("{:#}", settings(&flags).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_empty_hook_is_none() {
        let settings = settings(&["--lifecycle-hook", ""]).unwrap();
        assert_eq!(settings.lifecycle_hook, None);
    }

    #[test]
    fn sources_are_as_few_blocks_as_can_be() {
        let sources = |flags: &[&str]| match settings(flags).unwrap().kernel {
            Kernel::SetUp(setup) => setup.sources,
            Kernel::Foreign => panic!("not asked for"),
        };
        let blocks = "10.1.2.3/16,10.0.0.0/8,192.168.1.0/24";
        let fewer: Vec<Ipv4Net> = ["10.0.0.0/8", "192.168.1.0/24"]
            .map(|block| block.parse().unwrap())
            .into();
        assert_eq!(sources(&["--source", blocks]), fewer);
        assert!(sources(&["--source", "0.0.0.0/0"]).is_empty());
    }

    #[test]
    fn a_foreign_kernel_takes_no_settings() {
        let flags = ["--no-kernel", "--conntrack-max", "9000"];
        assert!(settings(&flags).is_err());
        assert!(settings(&flags[..1]).is_ok());
        assert!(settings(&["--no-kernel", "--conntrack-max", ""]).is_ok());
    }

    #[test]
    fn no_probe_wins() {
        assert!(settings(&["--no-probe"]).unwrap().probe_urls.is_empty());
        assert_eq!(settings(&[]).unwrap().probe_urls.len(), 2);
    }
}
