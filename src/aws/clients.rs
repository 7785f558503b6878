//! The SDK's clients, set up one way: this program's HTTP client, retries within the run's
//! deadline, and errors sorted into the few kinds that the rest of the program tells apart.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_runtime::client::retries::{RetryPartition, TokenBucket};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use hanat_core::ids::Region;

use crate::aws::credentials::PatientChain;
use crate::aws::errors::causes_and_status;
use crate::aws::patience::{Patience, TABLE_GONE, passes};
use crate::aws::troubles::Troubles;

/// How long one attempt at an AWS call may take, from sending to the last byte of the answer.
/// A page of 100 route tables takes well under a second; a connection that died silently must
/// not eat the run.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts at one AWS call: what ends them is the time that whoever makes it has.
const MAX_ATTEMPTS: u32 = u32::MAX;

/// First wait between two attempts at an AWS call, doubled (with full jitter) from then on.
pub const INITIAL_BACKOFF: Duration = Duration::from_millis(100);

/// Longest wait between two attempts at an AWS call.
pub const MAX_BACKOFF: Duration = Duration::from_secs(4);

/// How long the SDK waits for credentials: longer than `ATTEMPT_TIMEOUT`, because running out
/// of that one is tried again, and running out of this one is final.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(20);

/// Clients for one region, with credentials from the SDK's default chain (on an instance: its
/// role, from IMDSv2).
#[derive(Debug)]
pub struct Clients {
    /// EC2.
    pub ec2: aws_sdk_ec2::Client,
    /// EC2 Auto Scaling.
    pub autoscaling: aws_sdk_autoscaling::Client,
}

impl Clients {
    /// Reads the SDK's environment variables and profile; calls nothing. Failed attempts are
    /// noted in `troubles`. Each client has its patience with errors that pass.
    pub async fn new(
        http: SharedHttpClient,
        region: &Region,
        troubles: &Troubles,
        (of_ec2, of_autoscaling): (&Patience, &Patience),
    ) -> Self {
        let config = sdk_config(http, region, troubles).await;
        let ec2 = aws_sdk_ec2::config::Builder::from(&config)
            .retry_partition(retries())
            .retry_classifier(of_ec2.clone())
            .interceptor(troubles.patient(of_ec2))
            .build();
        let autoscaling = aws_sdk_autoscaling::config::Builder::from(&config)
            .retry_partition(retries())
            .retry_classifier(of_autoscaling.clone())
            .interceptor(troubles.patient(of_autoscaling))
            .build();
        Self {
            ec2: aws_sdk_ec2::Client::from_conf(ec2),
            autoscaling: aws_sdk_autoscaling::Client::from_conf(autoscaling),
        }
    }
}

async fn sdk_config(http: SharedHttpClient, region: &Region, troubles: &Troubles) -> SdkConfig {
    let region = aws_config::Region::new(region.as_str().to_owned());
    let credentials = PatientChain::new(http.clone(), region.clone(), troubles.clone());
    let identities = IdentityCache::lazy()
        .load_timeout(CREDENTIALS_TIMEOUT)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(INITIAL_BACKOFF)
        .with_max_backoff(MAX_BACKOFF);
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region)
        .credentials_provider(credentials)
        .identity_cache(identities)
        .http_client(http)
        .retry_config(retries)
        .timeout_config(timeouts)
        .load()
        .await
}

/// Every call of this program may be repeated: what was done twice says so in its error
/// (`RouteAlreadyExists`, "No active Lifecycle Action").
///
/// The SDK's retry quota protects a service from a fleet that retries for ever. This program
/// makes few calls, and those for a time that it bounds itself; giving up before it is over would
/// cost an outage.
fn retries() -> RetryPartition {
    RetryPartition::custom("hanat")
        .token_bucket(TokenBucket::unlimited())
        .build()
}

/// What a failed call means to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ReplaceRoute` where the table has no such route.
    NoSuchRoute,
    /// `CreateRoute` where the table has one.
    RouteExists,
    /// There is no such route table.
    NoSuchTable,
    /// `CompleteLifecycleAction` where nothing waits (any more).
    NoActiveAction,
    /// Not allowed, not known or not ready, for longer than there was patience for.
    Unready,
    /// No answer, or one that another attempt may better: throttled, or a fault of AWS's.
    Passing,
    /// Anything else.
    Other,
}

/// A call that failed: AWS's code and message, or what kept it from answering.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    text: String,
}

impl Failure {
    /// What it means.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Failure {}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let kind = match kind(error.code(), error.message().unwrap_or_default()) {
            Kind::Other if may_pass(&error) => Kind::Passing,
            kind => kind,
        };
        Self {
            kind,
            text: causes_and_status(&error, error.raw_response()),
        }
    }
}

/// EC2 throttles with status 503 (API reference, "Request throttling"); an answer that cannot be
/// understood may be cut short.
fn may_pass<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            true
        }
        SdkError::ServiceError(answer) => answer.raw().status().is_server_error(),
        _ => false,
    }
}

/// Codes and messages: EC2 API reference, "Error codes"; for Auto Scaling the messages that
/// `CompleteLifecycleAction` is known to answer with.
fn kind(code: Option<&str>, message: &str) -> Kind {
    match code {
        Some("InvalidParameterValue") if message.contains("no route defined for") => {
            Kind::NoSuchRoute
        }
        Some("RouteAlreadyExists") => Kind::RouteExists,
        Some(TABLE_GONE) => Kind::NoSuchTable,
        Some("ValidationError") if message.contains("No active Lifecycle Action") => {
            Kind::NoActiveAction
        }
        Some(code) if passes(code, message) => Kind::Unready,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_need_the_right_message_too() {
        let no_route = "There is no route defined for '0.0.0.0/0' in the route table.";
        assert_eq!(
            kind(Some("InvalidParameterValue"), no_route),
            Kind::NoSuchRoute
        );
        assert_eq!(kind(Some("InvalidParameterValue"), "other"), Kind::Other);
        assert_eq!(
            kind(
                Some("RouteAlreadyExists"),
                "The route identified by 0.0.0.0/0 already exists."
            ),
            Kind::RouteExists
        );
        let no_action = "No active Lifecycle Action found with instance ID i-1";
        assert_eq!(
            kind(Some("ValidationError"), no_action),
            Kind::NoActiveAction
        );
        assert_eq!(
            kind(Some("ValidationError"), "1 validation error"),
            Kind::Other
        );
        assert_eq!(kind(None, no_action), Kind::Other);
    }
}
