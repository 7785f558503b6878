//! hanat turns an EC2 instance into a highly available NAT.
//!
//! `hanat claim` runs once, at boot or by hand:
//!
//! 1. flags and variables → settings (`cli`, `config`)
//! 2. who am I? IMDSv2 (`identity`)
//! 3. at the same time: which tables are tagged, can I forward, does a hook wait?
//!    (`ec2`, `kernel`, `egress`, `autoscaling`)
//! 4. tables + identity → plan (`routes`)
//! 5. apply, read back until EC2 shows it, answer the hook (`claim`)
//! 6. what was done, as a table or JSON, and the exit code (`report`, `render`)
//!
//! Exit codes: 0 done or nothing to do, 1 failed, 2 wrong usage, 3 some tables refused or
//! failed while others are claimed.

mod autoscaling;
mod aws;
mod claim;
mod cli;
mod config;
mod credentials;
mod ec2;
mod egress;
mod errors;
mod http;
mod identity;
mod ids;
mod kernel;
mod pace;
mod render;
mod report;
mod routes;
mod troubles;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::{ClaimArgs, Cli, Command, Format, LogLevel};
use crate::config::Settings;
use crate::report::exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.log_format, cli.log_level);
    let Command::Claim(args) = cli.command;
    let settings = match Settings::new(&args) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(exit::USAGE);
        }
    };
    match claim(&args, &settings) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

fn claim(args: &ClaimArgs, settings: &Settings) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting")?;
    let report = runtime.block_on(claim::run(settings));
    // A run that was stopped does not wait for a kernel that hangs.
    runtime.shutdown_background();

    let text = match args.output {
        Format::Text => render::text(&report),
        Format::Json => render::json(&report),
    };
    // The report may not reach a closed pipe; what was done is done, and the last line on
    // standard error and the exit code still say it.
    let printed = std::io::stdout().write_all(text.as_bytes());
    if let Err(error) = printed {
        tracing::warn!("printing the report: {error}");
    }
    if let Some(error) = &report.error {
        tracing::error!("{error:#}");
    }
    Ok(report.exit_code())
}

/// The log goes to standard error. The libraries' own logs are left out below debug: what
/// matters of their failures is in this program's errors.
fn start_log(format: Format, level: LogLevel) {
    let (own, libraries) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::OFF),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::OFF),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::OFF),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
    };
    let filter = Targets::new()
        .with_default(libraries)
        .with_target("hanat", own);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry
            .with(lines.with_ansi(false).with_target(false))
            .init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
