//! Does the Internet answer? A NAT without egress must not take a route.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::{Client, Url};
use tokio::time::Instant;

use crate::aws::causes;
use crate::config::{PROBE_INTERVAL, PROBE_TIMEOUT};
use crate::troubles::Troubles;

/// Asks all the URLs at once, again and again, until one of them answers: any HTTP status
/// counts, since it came from outside. Ends only with an answer; the run's deadline bounds it.
pub async fn answered(http: &Client, urls: &[Url], troubles: &Troubles) {
    if urls.is_empty() {
        return;
    }
    loop {
        let mut probes: FuturesUnordered<_> = urls.iter().map(|url| probe(http, url)).collect();
        while let Some(answer) = probes.next().await {
            match answer {
                Ok(()) => {
                    urls.iter().for_each(|url| troubles.clear(&probing(url)));
                    return;
                }
                Err((what, why)) => troubles.note(&what, why),
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// The error is what was tried, and why it failed.
async fn probe(http: &Client, url: &Url) -> Result<(), (String, String)> {
    let started = Instant::now();
    let answer = http.get(url.clone()).timeout(PROBE_TIMEOUT).send().await;
    let answer = answer.map_err(|error| (probing(url), causes(&error.without_url())))?;
    let status = answer.status().as_u16();
    let millis = started.elapsed().as_millis();
    tracing::info!("egress works: {url} answered {status} in {millis} ms");
    Ok(())
}

fn probing(url: &Url) -> String {
    format!("probing {url}")
}
