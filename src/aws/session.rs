//! What every command starts from: who this instance is, and clients that reach AWS from it.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::timeout;

use crate::aws::autoscaling::AutoScaling;
use crate::aws::clients::Clients;
use crate::aws::ec2::Ec2;
use crate::aws::http;
use crate::aws::imds::{Instance, Metadata};
use crate::aws::patience::Patience;
use crate::aws::troubles::Troubles;

/// All of it shares one HTTP client. Calls are tried again until whoever makes them gives up;
/// `troubles` then tell why.
#[derive(Debug)]
pub struct Session {
    /// What stands in the way.
    pub troubles: Troubles,
    /// For requests to others than AWS.
    pub http: reqwest::Client,
    /// This instance's IMDS.
    pub metadata: Metadata,
    /// EC2 of this instance's region.
    pub ec2: Ec2,
    /// EC2 Auto Scaling of this instance's region.
    pub autoscaling: AutoScaling,
    /// This instance.
    pub instance: Instance,
}

impl Session {
    /// Asks IMDS who this instance is; calls nothing else. Fails where IMDS answers nonsense.
    pub async fn open(http: reqwest::Client, troubles: &Troubles) -> Result<Self> {
        Self::open_with(http, troubles, Patience::default).await
    }

    /// The same, for calls that are made again for errors that pass, each client with a `patience`
    /// of its own.
    pub async fn open_with(
        http: reqwest::Client,
        troubles: &Troubles,
        patience: impl Fn() -> Patience,
    ) -> Result<Self> {
        let (of_ec2, of_autoscaling) = (patience(), patience());
        let aws_http = http::for_aws(http.clone());
        let metadata = Metadata::new(aws_http.clone(), troubles.clone());
        let instance = metadata.instance().await?;
        let both = (&of_ec2, &of_autoscaling);
        let clients = Clients::new(aws_http, &instance.region, troubles, both).await;
        Ok(Self {
            troubles: troubles.clone(),
            http,
            metadata,
            ec2: Ec2::new(clients.ec2, of_ec2, troubles.clone()),
            autoscaling: AutoScaling::new(clients.autoscaling, of_autoscaling, troubles.clone()),
            instance,
        })
    }

    /// Works for so long at most; what stood in the way is then the error.
    pub async fn within<T>(
        &self,
        time: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = timeout(time, work).await;
        done.unwrap_or_else(|_| Err(anyhow!("{}", self.troubles)))
    }
}
