//! What a group is to hold.

use anyhow::{Context, Result};
use aws_sdk_autoscaling::types::AutoScalingGroup;

use super::AutoScaling;
use crate::aws::clients::Failure;

impl AutoScaling {
    /// Whether a group is to hold no instance at all: its desired capacity is 0, or it is being
    /// deleted. Fails where it does not say.
    pub async fn wants_nobody(&self, group: &str) -> Result<bool> {
        let doing = || format!("describing Auto Scaling group {group}");
        let answer = self
            .client
            .describe_auto_scaling_groups()
            .auto_scaling_group_names(group)
            .send()
            .await
            .map_err(Failure::from)
            .with_context(doing)?;
        let mut found = answer.auto_scaling_groups().iter();
        let found = found.find(|found| found.auto_scaling_group_name() == Some(group));
        found
            .and_then(wants_nobody)
            .with_context(|| format!("{}: the answer has no desired capacity of it", doing()))
    }
}

/// API reference, `AutoScalingGroup`: it has a status while it is being deleted ("Delete in
/// progress").
fn wants_nobody(group: &AutoScalingGroup) -> Option<bool> {
    let status = group.status().unwrap_or_default().to_ascii_lowercase();
    if status.starts_with("delet") {
        return Some(true);
    }
    group.desired_capacity().map(|desired| desired <= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_wanted_where_none_are_desired_or_the_group_is_deleted() {
        let wants = |desired: Option<i32>, status: Option<&str>| {
            let group = AutoScalingGroup::builder()
                .set_desired_capacity(desired)
                .set_status(status.map(str::to_owned));
            wants_nobody(&group.build())
        };
        assert_eq!(wants(Some(0), None), Some(true));
        assert_eq!(wants(Some(1), None), Some(false));
        assert_eq!(wants(Some(1), Some("")), Some(false));
        assert_eq!(wants(Some(1), Some("Delete in progress")), Some(true));
        assert_eq!(wants(None, Some("Delete in progress")), Some(true));
        assert_eq!(wants(None, None), None, "what it does not say is not known");
    }
}
