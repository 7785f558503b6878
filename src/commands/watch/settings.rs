//! What `hanat watch` is to do.

use std::time::Duration;

use anyhow::Result;

use crate::commands::claim::ClaimSettings;
use crate::commands::cli::WatchArgs;
use crate::commands::settings::{between, given};

/// What `hanat watch` is to do.
#[derive(Debug)]
pub struct WatchSettings {
    /// Whose tables, how the kernel has to be, and how it claims.
    pub claim: ClaimSettings,
    /// Between two looks at IMDS.
    pub interval: Duration,
    /// Between two looks at the kernel and at the source/destination check.
    pub upkeep_interval: Duration,
    /// How long a replacement is waited for.
    pub drain_wait: Duration,
    /// How long what still comes is forwarded after the last route has left.
    pub linger: Duration,
    /// Whether a recommendation to rebalance is a reason to leave.
    pub drain_on_rebalance: bool,
    /// The terminating hook to keep and complete, where the user named it.
    pub terminating_hook: Option<String>,
}

impl WatchSettings {
    /// Checks what the flags say. Errors name the flag and what it was given.
    pub fn new(args: &WatchArgs) -> Result<Self> {
        const SECOND: Duration = Duration::from_secs(1);
        let (tenth, minute, hour) = (SECOND / 10, SECOND * 60, SECOND * 3600);
        // A hook waits for 30 s, and may have begun to before it is noticed.
        let often = SECOND * 10;
        Ok(Self {
            claim: ClaimSettings::of(&args.owner, &args.kernel, &args.claiming, &args.time)?,
            interval: between("--interval", args.interval, tenth, often)?,
            upkeep_interval: between("--upkeep-interval", args.upkeep_interval, SECOND, hour)?,
            // A hook waits for two days at most.
            drain_wait: between("--drain-wait", args.drain_wait, Duration::ZERO, hour * 48)?,
            linger: between("--linger", args.linger, Duration::ZERO, minute * 10)?,
            drain_on_rebalance: args.drain_on_rebalance,
            terminating_hook: given(args.terminating_hook.as_ref()),
        })
    }
}
