//! How the kernel is to be, as flags say it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;

use super::given;
use crate::cli::KernelArgs;

/// How many blocks `--source` may name.
const MOST_SOURCES: usize = 100;

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

impl Kernel {
    /// Checks what the flags say.
    pub fn new(args: &KernelArgs) -> Result<Self> {
        let sources = args.sources.iter().filter(|block| !block.is_empty());
        let sources: Vec<Ipv4Net> = sources
            .map(|block| block.parse().with_context(|| format!("--source {block:?}")))
            .collect::<Result<_>>()?;
        // The kernel takes the rules in one message, and has to answer each.
        ensure!(
            sources.len() <= MOST_SOURCES,
            "--source: at most {MOST_SOURCES} blocks"
        );
        let max = given(args.conntrack_max.as_ref());
        let buckets = given(args.conntrack_buckets.as_ref());
        let established = given(args.conntrack_established.as_ref());
        if args.no_kernel {
            ensure!(
                sources.is_empty() && max.is_none() && buckets.is_none() && established.is_none(),
                "--no-kernel sets nothing up: --source and --conntrack-… have no place beside it"
            );
            return Ok(Self::Foreign);
        }
        let mut sources = Ipv4Net::aggregate(&sources);
        // Which is everybody.
        sources.retain(|block| block.prefix_len() > 0);
        Ok(Self::SetUp(KernelSetup {
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
fn whole_seconds(text: &str) -> Result<Duration> {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_hours(24 * 24);
    let time = humantime::parse_duration(text).ok();
    time.filter(|time| (LEAST..=MOST).contains(time) && time.subsec_nanos() == 0)
        .with_context(|| {
            format!(
                "--conntrack-established {text:?}: must be whole seconds, such as 2h, and 24 days \
                 at most"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn kernel(flags: &[&str]) -> Result<Kernel> {
        let cli = Cli::parse_from(["hanat", "claim"].iter().chain(flags));
        let Command::Claim(args) = cli.command else {
            panic!("another command")
        };
        Kernel::new(&args.kernel)
    }

    #[test]
    fn sources_are_as_few_blocks_as_can_be() {
        let sources = |flags: &[&str]| match kernel(flags).unwrap() {
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
    fn a_foreign_kernel_takes_no_kernel() {
        let flags = ["--no-kernel", "--conntrack-max", "9000"];
        assert!(kernel(&flags).is_err());
        assert!(kernel(&flags[..1]).is_ok());
        assert!(kernel(&["--no-kernel", "--conntrack-max", ""]).is_ok());
    }
}
