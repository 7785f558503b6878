//! Errors that pass: right after a launch a policy may not be in force yet, a read may not show what
//! was just made, an interface may not be ready, the clock not set. For a while they are tried again.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_types::retry::ErrorKind;
use tokio::time::Instant;

use crate::aws::clients::{INITIAL_BACKOFF, MAX_BACKOFF};
use crate::aws::errors::answered;

/// What AWS says of a role whose policies are attached, or of an account that is set up, at this
/// moment. Codes: EC2 API reference, "Error codes"; IAM user guide, "Changes that I make are not
/// always immediately visible".
const NOT_ALLOWED: [&str; 6] = [
    "UnauthorizedOperation",
    "AuthFailure",
    "AccessDenied",
    "AccessDeniedException",
    "OptInRequired",
    "PendingVerification",
];

/// What it says where the instance's clock is not set yet, or of credentials that are not known
/// everywhere. Codes: EC2 and Auto Scaling API reference, "Common errors".
const NOT_KNOWN: [&str; 8] = [
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
];

/// Whether an answer may be another one soon, with nobody doing anything. A route table that is gone
/// is not among them: whoever changes routes looks whether it is.
pub fn passes(code: &str, message: &str) -> bool {
    NOT_ALLOWED.contains(&code)
        || NOT_KNOWN.contains(&code)
        || code == "IncorrectInstanceState"
        // That there are several interfaces has the same code, and does not pass.
        || (code == "InvalidInstanceID" && message.contains("pending"))
        || (code.ends_with("NotFound") && code != TABLE_GONE)
}

/// What EC2 says where there is no such route table.
pub const TABLE_GONE: &str = "InvalidRouteTableID.NotFound";

/// How long such errors are tried again, by one client.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// None: not at all.
    until: Option<Instant>,
    /// Set where waiting is known to be pointless.
    pointless: Arc<AtomicBool>,
}

impl Patience {
    /// Until then; after that they are final.
    pub fn until(when: Instant) -> Self {
        Self {
            until: Some(when),
            ..Self::default()
        }
    }

    /// How much of it is left.
    pub fn left(&self) -> Option<Duration> {
        let left = self.until?.checked_duration_since(Instant::now())?;
        (!left.is_zero() && !self.pointless.load(Ordering::Relaxed)).then_some(left)
    }

    /// How long this error will be tried again for being one that passes.
    pub fn left_for(&self, error: &(dyn Error + 'static)) -> Option<Duration> {
        let (code, message) = answered(error)?;
        self.left().filter(|_| passes(code, message))
    }

    /// From now on it is known to be pointless, or is no longer.
    pub fn set_pointless(&self, pointless: bool) {
        self.pointless.store(pointless, Ordering::Relaxed);
    }
}

impl ClassifyRetry for Patience {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err);
        match error.and_then(|error| self.left_for(error)) {
            Some(left) if left > MAX_BACKOFF => RetryAction::transient_error(),
            // So that the last attempt is not made long after the end.
            Some(left) => {
                let wait = (left / 4).max(INITIAL_BACKOFF).min(left);
                RetryAction::retryable_error_with_explicit_delay(ErrorKind::TransientError, wait)
            }
            None => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "patience"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_does_not() {
        for (code, message, so) in [
            ("UnauthorizedOperation", "", true),
            ("AccessDenied", "", true),
            ("InvalidNetworkInterfaceID.NotFound", "", true),
            ("InvalidInstanceID.NotFound", "", true),
            ("NatGatewayNotFound", "", true),
            (TABLE_GONE, "", false),
            (
                "InvalidInstanceID",
                "The pending instance is not in a valid state",
                true,
            ),
            (
                "InvalidInstanceID",
                "There are multiple interfaces attached",
                false,
            ),
            ("IncorrectInstanceState", "", true),
            ("SignatureDoesNotMatch", "", true),
            ("InvalidParameterValue", "no route defined for", false),
            ("RouteAlreadyExists", "", false),
            ("ValidationError", "", false),
        ] {
            assert_eq!(passes(code, message), so, "{code} {message}");
        }
    }

    #[tokio::test]
    async fn it_ends_and_may_be_pointless() {
        let long = Patience::until(Instant::now() + Duration::from_mins(1));
        assert!(long.left().is_some());
        long.clone().set_pointless(true);
        assert!(long.left().is_none());
        long.set_pointless(false);
        assert!(long.left().is_some());
        assert!(Patience::until(Instant::now()).left().is_none());
        assert!(Patience::default().left().is_none());
    }
}
