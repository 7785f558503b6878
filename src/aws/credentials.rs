//! Credentials from the SDK's default chain (on an instance: its role, from IMDSv2), tried again
//! until the caller gives up. The SDK alone gives up on a token that IMDS has refused, and takes
//! a role whose credentials are not there yet, seconds after a first boot, for none at all.

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::time::sleep;

use crate::aws::errors::causes;
use crate::aws::imds::{self, imds_wait};
use crate::aws::troubles::Troubles;

/// Under which credentials are listed among the troubles.
const CREDENTIALS: &str = "credentials";

/// The default chain, with patience.
#[derive(Debug)]
pub struct PatientChain {
    config: ProviderConfig,
    region: Region,
    troubles: Troubles,
}

impl PatientChain {
    /// Asks nobody yet.
    pub fn new(http: SharedHttpClient, region: Region, troubles: Troubles) -> Self {
        Self {
            config: imds::imds_config(http),
            region,
            troubles,
        }
    }

    async fn credentials(&self) -> provider::Result {
        let mut failures = 0;
        loop {
            // A new chain each time, since each keeps its IMDS token.
            let chain = DefaultCredentialsChain::builder()
                .region(self.region.clone())
                .imds_client(imds::imds_client(&self.config))
                .configure(self.config.clone())
                .build()
                .await;
            match chain.provide_credentials().await {
                Ok(credentials) => {
                    self.troubles.clear(CREDENTIALS);
                    return Ok(credentials);
                }
                Err(error) => self.troubles.note(CREDENTIALS, &causes(&error)),
            }
            sleep(imds_wait(failures)).await;
            failures += 1;
        }
    }
}

impl ProvideCredentials for PatientChain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}
