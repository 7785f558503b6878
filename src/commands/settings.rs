//! What the settings of several commands have in common. Flags come in raw; whatever leaves here has
//! been checked and is not checked again.

mod conntrack;
mod kernel;

use std::time::Duration;

use anyhow::{Result, ensure};

pub use kernel::kernel;

/// The key of the owner tag.
pub fn owner_tag(key: &str) -> Result<String> {
    ensure!(
        !key.is_empty() && key.chars().count() <= 128,
        "--owner-tag {key:?}: a tag's key has 1 to 128 characters"
    );
    Ok(key.to_owned())
}

/// The time for a whole run.
pub fn deadline(time: Duration) -> Result<Duration> {
    between(
        "--deadline",
        time,
        Duration::from_secs(1),
        Duration::from_hours(2),
    )
}

/// A time between two bounds, both included.
pub fn between(flag: &str, time: Duration, least: Duration, most: Duration) -> Result<Duration> {
    ensure!(
        (least..=most).contains(&time),
        "{flag} {}: must be between {} and {}",
        humantime::format_duration(time),
        humantime::format_duration(least),
        humantime::format_duration(most)
    );
    Ok(time)
}

/// A text, if there is any: templates pass on what was left empty.
pub fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}
