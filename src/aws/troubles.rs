//! What stood in the way last. Calls are tried again for as long as there is time; when it is
//! up, the reason is whatever kept failing until then, and the user must see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use crate::aws::errors::causes_and_status;
use crate::aws::patience::Patience;

const NO_ANSWER: &str = "no answer yet";

/// The latest trouble of each thing that is being tried, until it works.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    attempts: Arc<Mutex<BTreeMap<String, String>>>,
    /// What a process that stays does again and again and cannot do at present. Its causes are
    /// made of the above, which are not made of these.
    standing: Arc<Mutex<BTreeSet<String>>>,
    /// The one that the client has whose calls are noted, so as to say so.
    patience: Patience,
}

impl Troubles {
    /// The same, to note what is tried with such patience.
    pub fn patient(&self, patience: &Patience) -> Self {
        Self {
            patience: patience.clone(),
            ..self.clone()
        }
    }

    /// `what` is being tried.
    pub fn begin(&self, what: &str) {
        let mut troubles = self.lock();
        if !troubles.contains_key(what) {
            troubles.insert(what.to_owned(), NO_ANSWER.to_owned());
        }
    }

    /// `what` failed once more. The first time is worth a line in the log.
    pub fn note(&self, what: &str, why: &str) {
        self.note_and_say(what, why, "");
    }

    /// With something that is worth saying of it, and is none of its causes.
    fn note_and_say(&self, what: &str, why: &str, more: &str) {
        let before = self.lock().insert(what.to_owned(), why.to_owned());
        if before.is_none_or(|why| why == NO_ANSWER) {
            tracing::info!("{what}: {why}{more}");
        } else {
            tracing::debug!("{what}: {why}{more}");
        }
    }

    /// What came of `what`, which a process that stays does again and again: that it fails is a
    /// warning when it begins, and that it works again is worth a line, too.
    pub fn tell<T>(&self, what: &str, done: Result<T>) -> Option<T> {
        match done {
            Ok(done) => {
                self.over(what);
                Some(done)
            }
            Err(error) => {
                self.warn(what, &format!("{error:#}"));
                None
            }
        }
    }

    /// `what`, which a process that stays does again and again, cannot be done. The first time is
    /// worth a warning.
    pub fn warn(&self, what: &str, why: &str) {
        if self.standing().insert(what.to_owned()) {
            tracing::warn!("{what}: {why}");
        } else {
            tracing::debug!("{what}: {why}");
        }
    }

    /// It can be done, and if it could not, that is worth a line, too.
    pub fn over(&self, what: &str) {
        if self.standing().remove(what) {
            tracing::info!("{what}: works again");
        }
    }

    /// Nobody tries to do it any more.
    pub fn forget(&self, what: &str) {
        self.standing().remove(what);
    }

    fn standing(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `what` works.
    pub fn clear(&self, what: &str) {
        self.lock().remove(what);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // Whatever panicked elsewhere, a map of texts is whole.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let troubles = self.lock();
        if troubles.is_empty() {
            return f.write_str("nothing failed, there was more to do than fits");
        }
        let texts = troubles.iter().map(|(what, why)| format!("{what}: {why}"));
        f.write_str(&texts.collect::<Vec<_>>().join("; "))
    }
}

/// Notes each attempt at an AWS call, under the call's name, until one succeeds.
#[dyn_dispatch_hint]
impl Intercept for Troubles {
    fn name(&self) -> &'static str {
        "troubles"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.begin(call(config));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let call = call(config);
        match context.output_or_error() {
            Some(Err(error)) => {
                let left = self.patience.left_for(error);
                let more = left.map(|left| {
                    let left = Duration::from_secs(left.as_secs().max(1));
                    let left = humantime::format_duration(left);
                    format!(" (that may pass: it is tried again for {left})")
                });
                let why = causes_and_status(error, context.response());
                self.note_and_say(call, &why, more.as_deref().unwrap_or_default());
            }
            Some(Ok(_)) => self.clear(call),
            None => {}
        }
        Ok(())
    }
}

/// The name of the API call that a configuration belongs to.
fn call(config: &ConfigBag) -> &str {
    config.load::<Metadata>().map_or("a call", Metadata::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Causes that quote all troubles would else quote themselves, twice as long each time.
    #[test]
    fn what_stands_is_no_part_of_its_own_cause() {
        let troubles = Troubles::default();
        troubles.note("DescribeRouteTables", "no answer");
        let before = troubles.to_string();
        for _ in 0..50 {
            troubles.warn("leaving", &troubles.to_string());
            troubles.warn("keeping up", &troubles.to_string());
        }
        assert_eq!(troubles.to_string(), before);
    }
}
