//! What `hanat claim` is to do.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Url;

use crate::commands::cli::{ClaimArgs, ClaimingArgs, KernelArgs, OwnerArgs, TimeArgs};
use crate::commands::settings::{self, deadline, given, owner_tag};
use crate::kernel::Kernel;

/// Kept of the deadline for answering the lifecycle hook, whatever happened: two attempts.
const ANSWER_RESERVE: Duration = Duration::from_secs(10);

/// The part of the deadline for which errors that pass are tried again: the rest is enough for what
/// comes after, and a hook that waits for 5 minutes gets its answer after one.
const PATIENCE: u32 = 2;

/// What `hanat claim` is to do.
#[derive(Debug)]
pub struct ClaimSettings {
    /// Key of the owner tag.
    pub owner_tag: String,
    /// Whether a VPC without tagged tables is fine.
    pub allow_none: bool,
    /// Where the Internet is asked for an answer; empty means not at all.
    pub probe_urls: Vec<Url>,
    /// Whether a default route that leads to a VPC endpoint is taken, too.
    pub replaces_endpoints: bool,
    /// What to do about the kernel.
    pub kernel: Kernel,
    /// The launching hook to complete, where the user named it.
    pub lifecycle_hook: Option<String>,
    /// Time for the whole run.
    pub deadline: Duration,
    /// For how long of it errors are tried again that pass, such as a permission that is not in force
    /// yet; none in a dry run, which nobody waits for.
    pub patience: Option<Duration>,
    /// What is kept of it for the answer to the lifecycle hook, and granted after a signal.
    pub answer_time: Duration,
    /// Whether to stop before the first change.
    pub dry_run: bool,
}

impl ClaimSettings {
    /// Checks what the flags say. Errors name the flag and what it was given.
    pub fn new(args: &ClaimArgs) -> Result<Self> {
        let settings = Self::of(&args.owner, &args.kernel, &args.claiming, &args.time)?;
        let dry_run = args.run.dry_run;
        Ok(Self {
            dry_run,
            patience: settings.patience.filter(|_| !dry_run),
            ..settings
        })
    }

    /// The same for a claim that is not only planned, from what all who claim are told.
    pub fn of(
        owner: &OwnerArgs,
        kernel: &KernelArgs,
        claiming: &ClaimingArgs,
        time: &TimeArgs,
    ) -> Result<Self> {
        let owner_tag = owner_tag(&owner.owner_tag)?;
        let deadline = deadline(time.deadline)?;
        let probe_urls = if claiming.no_probe {
            Vec::new()
        } else {
            claiming
                .probe_urls
                .iter()
                .map(|url| probe_url(url).context("--probe-url"))
                .collect::<Result<_>>()?
        };
        let answer_time = ANSWER_RESERVE.min(deadline / 4);
        Ok(Self {
            owner_tag,
            allow_none: claiming.allow_none,
            probe_urls,
            replaces_endpoints: claiming.replace_endpoint,
            kernel: settings::kernel(kernel)?,
            lifecycle_hook: given(claiming.lifecycle_hook.as_ref()),
            deadline,
            patience: Some(deadline / PATIENCE),
            answer_time,
            dry_run: false,
        })
    }
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
    use crate::commands::cli::{Cli, Command};
    use clap::Parser;

    fn settings(flags: &[&str]) -> Result<ClaimSettings> {
        let cli = Cli::parse_from(["hanat", "claim"].iter().chain(flags));
        let Command::Claim(args) = cli.command else {
            panic!("another command")
        };
        ClaimSettings::new(&args)
    }

    #[test]
    fn a_part_of_the_deadline_is_kept_for_the_hook() {
        let two_minutes = settings(&[]).unwrap();
        assert_eq!(two_minutes.answer_time, Duration::from_secs(10));
        let short = settings(&["--deadline", "4s"]).unwrap();
        assert_eq!(short.answer_time, Duration::from_secs(1));
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
    fn no_probe_wins() {
        assert!(settings(&["--no-probe"]).unwrap().probe_urls.is_empty());
        assert_eq!(settings(&[]).unwrap().probe_urls.len(), 2);
    }
}
