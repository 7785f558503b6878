//! Does the Internet answer? A NAT without egress must not take a route.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::{Client, Url};
use tokio::time::Instant;

use crate::aws::errors::causes;
use crate::aws::troubles::Troubles;

/// How long one egress probe may take, from connecting to the answer's header.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Wait between two rounds of egress probes. A public address that is still being associated
/// works within a few of these.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Asks all the URLs at once, again and again, until one of them answers: any HTTP status
/// counts, since it came from outside. Without URLs there is nothing to wait for. Ends only
/// with an answer; the run's deadline bounds it, and `troubles` tell what stood in the way.
pub async fn answered(http: &Client, urls: &[Url], troubles: &Troubles) {
    while !urls.is_empty() {
        let probes = urls.iter().map(|url| probe(http, url, troubles));
        let mut probes: FuturesUnordered<_> = probes.collect();
        while let Some(answered) = probes.next().await {
            if answered {
                for url in urls {
                    troubles.clear(&probing(url));
                }
                return;
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// Whether there was an answer.
async fn probe(http: &Client, url: &Url, troubles: &Troubles) -> bool {
    troubles.begin(&probing(url));
    let started = Instant::now();
    match http.get(url.clone()).timeout(PROBE_TIMEOUT).send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let millis = started.elapsed().as_millis();
            tracing::info!("egress works: {url} answered {status} in {millis} ms");
            true
        }
        Err(error) => {
            troubles.note(&probing(url), &causes(&error.without_url()));
            false
        }
    }
}

fn probing(url: &Url) -> String {
    format!("probing {url}")
}
