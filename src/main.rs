//! hanat turns an EC2 instance into a highly available NAT. Here: the command line, the log, the runtime
//! and the exit code; docs/architecture.md says where the rest is.
//!
//! `hanat claim` runs once, at boot or by hand:
//!
//! 1. flags and variables → settings (`commands::usage`, `cli`, `claim::settings`)
//! 2. who am I? IMDSv2 (`aws::session`, `aws::imds`)
//! 3. at the same time: which tables are tagged, can I forward, does a hook wait?
//!    (`aws::ec2`, `kernel`, `probes::egress`, `aws::autoscaling`)
//! 4. tables + identity → plan (`hanat_core::routes`)
//! 5. apply, read back until EC2 shows it, answer the hook (`commands::claim`)
//! 6. what was done, as a table or JSON, and the exit code (`claim::report`, `claim::render`)
//!
//! `hanat drain` hands the routes over by hand, `hanat watch` when the instance is about to end:
//!
//! 1. and 2. as above
//! 3. what ends this instance, and when? (`commands::watch`, `hanat_core::notices`)
//! 4. who could take its routes over, and how are they? (`tables::candidates`, `probes::ping`)
//! 5. tables + candidates → who gets which (`hanat_core::successors`)
//! 6. read again, change, read back (`tables::handover`)
//!
//! Exit codes: 0 done or nothing to do, 1 failed, 2 wrong usage, 3 tables refused while all others
//! are done, 4 some tables failed while others are done.

mod aws;
mod commands;
mod kernel;
mod probes;
mod tables;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Error, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::commands::claim::{self, ClaimSettings};
use crate::commands::cli::{ClaimArgs, Command, DrainArgs, Format, LogLevel};
use crate::commands::drain::{self, DrainSettings};
use crate::commands::report::exit;
use crate::commands::usage::{self, Misuse};
use crate::commands::watch::{self, WatchSettings};

fn main() -> ExitCode {
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(misuse) => return misused(&misuse),
    };
    start_log(cli.log_format, cli.log_level);
    let done = match &cli.command {
        Command::Claim(args) => ClaimSettings::new(args).map(|settings| claim(args, &settings)),
        Command::Drain(args) => DrainSettings::new(args).map(|settings| drain(args, &settings)),
        Command::Watch(args) => WatchSettings::new(args).map(|settings| watch(&settings)),
    };
    match done {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => failed(&error, exit::FAILED),
        Err(error) => {
            // Before the answer, after which this instance may be gone any moment.
            let code = failed(&error, exit::USAGE);
            if matches!(cli.command, Command::Claim(_)) {
                abandon_launch();
            }
            code
        }
    }
}

/// Tells what is wrong with how this was called, or gives the help that was asked for.
fn misused(misuse: &Misuse) -> ExitCode {
    start_log(Format::Text, LogLevel::Info);
    match misuse {
        Misuse::Arguments(error) => {
            // Where nobody listens there is nobody to tell.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::from(exit::DONE);
            }
        }
        Misuse::Variables(error) => tracing::error!("{error:#}"),
    }
    if usage::are_for("claim", std::env::args_os()) {
        abandon_launch();
    }
    ExitCode::from(exit::USAGE)
}

/// A claim that cannot begin may be a first boot's: the group is told. At a terminal there is a
/// person, and no boot.
fn abandon_launch() {
    if std::io::stderr().is_terminal() {
        return;
    }
    match run(claim::abandon_launch()) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => {
            let error = error.context("answering the lifecycle hook");
            tracing::warn!("{error:#}");
        }
    }
}

fn failed(error: &Error, code: u8) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::from(code)
}

fn claim(args: &ClaimArgs, settings: &ClaimSettings) -> Result<u8> {
    let report = run(claim::run(settings))?;
    let text = match args.run.output {
        Format::Text => claim::render::text(&report),
        Format::Json => claim::render::json(&report),
    };
    conclude(&text, report.common.error.as_ref());
    Ok(report.exit_code())
}

fn drain(args: &DrainArgs, settings: &DrainSettings) -> Result<u8> {
    let report = run(drain::run(settings))?;
    let text = match args.run.output {
        Format::Text => drain::render::text(&report),
        Format::Json => drain::render::json(&report),
    };
    conclude(&text, report.common.error.as_ref());
    Ok(report.exit_code())
}

fn watch(settings: &WatchSettings) -> Result<u8> {
    run(watch::run(settings))??;
    Ok(exit::DONE)
}

fn run<T>(command: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting")?;
    let done = runtime.block_on(command);
    // A run that was stopped does not wait for a kernel that hangs.
    runtime.shutdown_background();
    Ok(done)
}

/// The report may not reach a closed pipe; what was done is done, and the last line on standard
/// error and the exit code still say it.
fn conclude(text: &str, error: Option<&Error>) {
    let printed = std::io::stdout().write_all(text.as_bytes());
    if let Err(error) = printed {
        tracing::warn!("printing the report: {error}");
    }
    if let Some(error) = error {
        tracing::error!("{error:#}");
    }
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
