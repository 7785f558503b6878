//! How the kernel is to be, as flags say it.

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;

use super::ConnectionTable;
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
    /// Sizes and times of the connection table.
    pub connection_table: ConnectionTable,
}

impl Kernel {
    /// Checks what the flags say.
    pub fn new(args: &KernelArgs) -> Result<Self> {
        let sources = args.sources.iter().filter(|block| !block.is_empty());
        let sources: Vec<Ipv4Net> = sources
            .map(|block| block.parse().with_context(|| format!("--source {block:?}")))
            .collect::<Result<_>>()?;
        // The kernel takes all rules in one message.
        ensure!(
            sources.len() <= MOST_SOURCES,
            "--source: at most {MOST_SOURCES} blocks"
        );
        let connection_table = ConnectionTable::new(&args.conntrack)?;
        if args.no_kernel {
            ensure!(
                sources.is_empty() && connection_table.is_default(),
                "--no-kernel sets nothing up: --source and --conntrack-… have no place beside it"
            );
            return Ok(Self::Foreign);
        }
        let mut sources = Ipv4Net::aggregate(&sources);
        // Which is everybody.
        sources.retain(|block| block.prefix_len() > 0);
        Ok(Self::SetUp(KernelSetup {
            sources,
            connection_table,
        }))
    }
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
