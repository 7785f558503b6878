//! Coming into service, from Standby or a warm pool: what runs on does not boot then, so that
//! nothing else claims the routes.

use std::time::Duration;

use tokio::time::sleep;

use super::{RETRY_INTERVAL, STEP_TIME, Watch, service};
use crate::commands::claim;
use crate::commands::claim::render;
use crate::commands::claim::report::Report;
use crate::commands::report::exit;

/// Wait between two claims of an instance that is in service and has not got all of its tables.
const CLAIM_INTERVAL: Duration = Duration::from_secs(30);

pub(super) const CLAIMING: &str = "claiming";

impl Watch<'_> {
    /// Goes on with what the watch before this one did not come to the end of: a launch that still
    /// waits, although whatever claims at boot has been there.
    pub(super) async fn resume(&self) {
        const ASKING: &str = "asking whether the launch waits";
        // Trouble with IMDS is told by those who look for notices.
        let Ok(target) = self.session.metadata.target_state().await else {
            return;
        };
        // It may say something else by the time of their first look.
        self.heed(target.as_ref());
        // Outside a group asking need not be allowed.
        if !target.is_some_and(|target| target.is_in_service()) {
            return;
        }
        let listed = self.session.autoscaling.listed(&self.nat.instance);
        let listed = self.session.within(STEP_TIME, listed).await;
        let listed = self.session.troubles.tell(ASKING, listed).flatten();
        if listed.is_some_and(|listed| listed.state.is_launching()) {
            self.enter().await;
        }
    }

    /// Until the tables are claimed, or another try would come to the same.
    pub(super) async fn enter(&self) {
        tracing::info!("{} comes into service: claiming", self.nat.instance);
        service::status("in service; claiming");
        loop {
            let mut report = claim::run_within(&self.settings.claim, &self.session).await;
            let again = again_after(&report);
            if let Some(error) = report.common.error.take() {
                self.session.troubles.warn(CLAIMING, &format!("{error:#}"));
            } else {
                self.session.troubles.forget(CLAIMING);
                if report.aside.is_none() {
                    tracing::info!("{}", render::summary(&report));
                }
            }
            let Some(pause) = again else { break };
            sleep(pause).await;
        }
        service::status("in service");
    }
}

/// When to claim again; never where it is done, or refused.
fn again_after(report: &Report) -> Option<Duration> {
    if report.aside.is_some() {
        // The group's list is behind IMDS.
        return Some(RETRY_INTERVAL);
    }
    let is_final = matches!(report.exit_code(), exit::DONE | exit::REFUSED);
    (!is_final).then_some(CLAIM_INTERVAL)
}
