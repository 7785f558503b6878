//! The command line: flags and their `HANAT_*` variables, nothing else. What they mean is
//! settled in `config`.

mod conntrack;

use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use conntrack::ConntrackArgs;

const AFTER_HELP: &str = "\
Exit codes:
  0  done, or nothing to do
  1  failed; the last line on standard error says why
  2  wrong usage
  3  some tables were refused, all others are done; it is the same the next time
  4  some tables failed, others are done";

const AFTER_HELP_WATCH: &str = "\
Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  it could not begin; the last line on standard error says why
  2  wrong usage";

/// Turns an EC2 instance into a highly available NAT.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How the log on standard error is written
    #[arg(
        long,
        global = true,
        display_order = 100,
        env = "HANAT_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub log_format: Format,

    /// How much is logged
    #[arg(
        long,
        global = true,
        display_order = 100,
        env = "HANAT_LOG_LEVEL",
        value_enum,
        default_value = "info"
    )]
    pub log_level: LogLevel,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Point the default routes of the tagged route tables at this instance
    ///
    /// Reads from IMDSv2 who this instance is, makes sure that it can forward, replaces the
    /// default route of every route table of its VPC that is tagged NATAZ=any or with its own
    /// zone, reads back that EC2 shows it, and completes the launch's lifecycle action.
    /// Running it again changes nothing where nothing changed.
    #[command(after_help = AFTER_HELP)]
    Claim(ClaimArgs),

    /// Hand this instance's default routes over to somebody else
    ///
    /// To a healthy NAT instance in the table's zone, else to one elsewhere, else to a NAT gateway
    /// with the owner tag. Each table is read again right before; EC2 has to show what was changed.
    /// This instance goes on forwarding what still comes to it.
    #[command(after_help = AFTER_HELP)]
    Drain(DrainArgs),

    /// Stay with a NAT: leave it without being missed, and keep it as it has to be
    ///
    /// Runs until it is stopped, which moves no route. When the Auto Scaling group terminates the
    /// instance it keeps the terminating hook waiting until others have its routes; on a Spot
    /// interruption, and when the instance goes to Standby or is detached, it hands them over at
    /// once. When the instance comes into service from Standby or a warm pool it claims as hanat
    /// claim does.
    #[command(after_help = AFTER_HELP_WATCH)]
    Watch(WatchArgs),
}

/// Flags of `hanat claim`.
#[derive(Debug, Args)]
pub struct ClaimArgs {
    /// Whose tables.
    #[command(flatten)]
    pub owner: OwnerArgs,

    /// How it claims.
    #[command(flatten)]
    pub claiming: ClaimingArgs,

    /// What of the kernel.
    #[command(flatten)]
    pub kernel: KernelArgs,

    /// For how long.
    #[command(flatten)]
    pub time: TimeArgs,

    /// How it runs.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `hanat drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Whose tables.
    #[command(flatten)]
    pub owner: OwnerArgs,

    /// Who gets the routes: an instance, its interface, or a tagged NAT gateway, by ID
    /// [default: for each table the best that there is]
    #[arg(long, env = "HANAT_TO", value_name = "ID")]
    pub to: Option<String>,

    /// For how long.
    #[command(flatten)]
    pub time: TimeArgs,

    /// How it runs.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `hanat watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Whose tables.
    #[command(flatten)]
    pub owner: OwnerArgs,

    /// How it claims once the instance is in service.
    #[command(flatten)]
    pub claiming: ClaimingArgs,

    /// What of the kernel.
    #[command(flatten)]
    pub kernel: KernelArgs,

    /// For how long a claim.
    #[command(flatten)]
    pub time: TimeArgs,

    /// Time between two looks at IMDS for notices of this instance's end
    #[arg(
        long,
        env = "HANAT_INTERVAL",
        value_name = "TIME",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub interval: Duration,

    /// Time between two looks at the kernel and the source/destination check
    #[arg(
        long,
        env = "HANAT_UPKEEP_INTERVAL",
        value_name = "TIME",
        default_value = "1m",
        value_parser = humantime::parse_duration
    )]
    pub upkeep_interval: Duration,

    /// How long an instance that is being terminated waits for the group's replacement to take its
    /// routes, before it hands them over to somebody else itself
    #[arg(
        long,
        env = "HANAT_DRAIN_WAIT",
        value_name = "TIME",
        default_value = "4m",
        value_parser = humantime::parse_duration
    )]
    pub drain_wait: Duration,

    /// How long it goes on forwarding after its last route has left
    #[arg(
        long,
        env = "HANAT_LINGER",
        value_name = "TIME",
        default_value = "5s",
        value_parser = humantime::parse_duration
    )]
    pub linger: Duration,

    /// Leave when EC2 recommends to rebalance a Spot Instance, too
    #[arg(long, env = "HANAT_DRAIN_ON_REBALANCE", value_parser = BoolishValueParser::new())]
    pub drain_on_rebalance: bool,

    /// Terminating hook to keep and to complete, where the group has several
    #[arg(long, env = "HANAT_TERMINATING_HOOK", value_name = "NAME")]
    pub terminating_hook: Option<String>,
}

/// How default routes are claimed.
#[derive(Debug, Args)]
pub struct ClaimingArgs {
    /// Succeed when no route table is tagged, instead of failing
    #[arg(long, env = "HANAT_ALLOW_NONE", value_parser = BoolishValueParser::new())]
    pub allow_none: bool,

    /// URL that must answer before routes are taken; any HTTP answer counts, and one of several
    /// is enough [repeatable; in the variable separated by commas]
    #[arg(
        long = "probe-url",
        env = "HANAT_PROBE_URL",
        value_name = "URL",
        value_delimiter = ',',
        default_values = ["https://checkip.amazonaws.com/", "https://www.example.com/"]
    )]
    pub probe_urls: Vec<String>,

    /// Take routes without asking the Internet for an answer first
    #[arg(long, env = "HANAT_NO_PROBE", value_parser = BoolishValueParser::new())]
    pub no_probe: bool,

    /// Take default routes that lead to a VPC endpoint, such as a firewall's, too
    #[arg(long, env = "HANAT_REPLACE_ENDPOINT", value_parser = BoolishValueParser::new())]
    pub replace_endpoint: bool,

    /// Launching hook to complete, where the group has several
    #[arg(long, env = "HANAT_LIFECYCLE_HOOK", value_name = "NAME")]
    pub lifecycle_hook: Option<String>,
}

/// How long a run may take.
#[derive(Debug, Args)]
pub struct TimeArgs {
    /// Time for the whole of a claim or a drain, such as 90s or 2m; a part at its end is kept for
    /// the answer to the lifecycle hook, or for a last look
    #[arg(
        long,
        env = "HANAT_DEADLINE",
        value_name = "TIME",
        default_value = "2m",
        value_parser = humantime::parse_duration
    )]
    pub deadline: Duration,
}

/// How a command that ends is run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Print the plan and change nothing
    #[arg(long, env = "HANAT_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,

    /// How the result on standard output is written
    #[arg(long, env = "HANAT_OUTPUT", value_enum, default_value = "text")]
    pub output: Format,
}

/// Which tables are looked at.
#[derive(Debug, Args)]
pub struct OwnerArgs {
    /// Key of the tag that names a route table's zone, or "any"
    #[arg(
        long,
        env = "HANAT_OWNER_TAG",
        value_name = "KEY",
        default_value = "NATAZ"
    )]
    pub owner_tag: String,
}

/// What is made of the kernel.
#[derive(Debug, Args)]
pub struct KernelArgs {
    /// Leave the kernel alone, because the image brings its own NAT; only check that it forwards
    /// and masquerades
    #[arg(
        long,
        env = "HANAT_NO_KERNEL",
        value_parser = BoolishValueParser::new(),
    )]
    pub no_kernel: bool,

    /// Masquerade only what comes from this block, instead of everything
    /// [repeatable; in the variable separated by commas]
    #[arg(
        long = "source",
        env = "HANAT_SOURCE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub sources: Vec<String>,

    /// What of its connection table.
    #[command(flatten)]
    pub conntrack: ConntrackArgs,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Verbosity of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    /// Only what made the run fail.
    Error,
    /// And what deserves a look.
    Warn,
    /// And each thing done.
    Info,
    /// And every attempt that failed.
    Debug,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
