//! Route tables as a command moves them: who could take one, and handing it over.

pub mod candidates;
pub mod handover;

use std::time::Duration;

/// Route changes under way at once: enough to keep the bucket, not the network, the limit.
pub const ROUTE_CALLS_IN_FLIGHT: usize = 16;

/// First wait between two reads that verify, doubled up to `MAX_VERIFY_INTERVAL`. The first
/// read follows at once; EC2's reads are eventually consistent, mostly within a second.
pub const VERIFY_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait between two reads that verify: Describe calls refill at 20 a second.
pub const MAX_VERIFY_INTERVAL: Duration = Duration::from_secs(1);
