//! How the kernel is to be, as flags say it.

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;

use super::conntrack;
use crate::commands::cli::KernelArgs;
use crate::kernel::{Kernel, KernelSetup};

/// How many blocks `--source` may name.
const MOST_SOURCES: usize = 100;

/// Checks what the flags say.
pub fn kernel(args: &KernelArgs) -> Result<Kernel> {
    let sources = args.sources.iter().filter(|block| !block.is_empty());
    let sources: Vec<Ipv4Net> = sources
        .map(|block| block.parse().with_context(|| format!("--source {block:?}")))
        .collect::<Result<_>>()?;
    // The kernel takes all rules in one message.
    ensure!(
        sources.len() <= MOST_SOURCES,
        "--source: at most {MOST_SOURCES} blocks"
    );
    let connection_table = conntrack::connection_table(&args.conntrack)?;
    if args.no_kernel {
        ensure!(
            sources.is_empty() && connection_table.is_default(),
            "--no-kernel sets nothing up: --source and --conntrack-… have no place beside it"
        );
        return Ok(Kernel::Foreign);
    }
    let mut sources = Ipv4Net::aggregate(&sources);
    // Which is everybody.
    sources.retain(|block| block.prefix_len() > 0);
    Ok(Kernel::SetUp(KernelSetup {
        sources,
        connection_table,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::cli::{Cli, Command};
    use clap::Parser;

    fn kernel(flags: &[&str]) -> Result<Kernel> {
        let cli = Cli::parse_from(["hanat", "claim"].iter().chain(flags));
        let Command::Claim(args) = cli.command else {
            panic!("another command")
        };
        super::kernel(&args.kernel)
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
