//! What the service manager is told (systemd's `sd_notify`); nothing where there is none.

use sd_notify::NotifyState;
use tokio::time::sleep;

/// Tells it something.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling the service manager: {error}");
    }
}

/// The line that `systemctl status` shows.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Twice in the time after which a watchdog would take the process for hung.
pub async fn keep_alive() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        tell(&[NotifyState::Watchdog]);
        sleep(patience / 2).await;
    }
}
