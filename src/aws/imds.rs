//! Who am I? Read from IMDSv2 only, each value parsed into its own type.
//!
//! Paths and what they answer: EC2 user guide, "Instance metadata categories". Tokens and
//! status codes: the same guide, "Use the Instance Metadata Service".

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aws_config::BehaviorVersion;
use aws_config::imds::client::Client;
use aws_config::imds::client::error::ImdsError;
use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use hanat_core::ids::{InstanceId, InterfaceId, Mac, Malformed, Region, SubnetId, VpcId, Zone};
use hanat_core::lifecycle::TargetState;
use hanat_core::notices::{Interruption, Time, recommendation};
use hanat_core::routes::Nat;
use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::aws::errors::causes;
use crate::aws::lists::List;
use crate::aws::troubles::Troubles;

/// How long one read of IMDS may take. It answers in about a millisecond when it is there.
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);

/// The wait after a failed read of IMDS, so many failures after the first, for as long as the run
/// lasts: it throttles for a second or so, may come up later than a boot script, and without it
/// no hook can be answered.
pub fn imds_wait(failures: usize) -> Duration {
    const FIRST: [u64; 4] = [50, 200, 500, 1000];
    Duration::from_millis(*FIRST.get(failures).unwrap_or(&2000))
}

/// What it takes to answer a lifecycle hook, whatever else is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    /// The region to call.
    pub region: Region,
    /// This instance.
    pub instance_id: InstanceId,
}

/// Where this instance stands in its VPC, seen from its primary interface (device 0).
#[derive(Clone, Debug, Serialize)]
pub struct Network {
    /// The zone whose tables are ours.
    pub availability_zone: Zone,
    /// The VPC whose tables are looked at.
    pub vpc_id: VpcId,
    /// All of the VPC's IPv4 blocks, the primary one first.
    pub vpc_cidr_blocks: Vec<Ipv4Net>,
    /// The subnet this instance must keep reaching the Internet from.
    pub subnet_id: SubnetId,
    /// The interface that routes point at.
    pub interface_id: InterfaceId,
    /// Its MAC address.
    pub mac: Mac,
    /// Its primary private address.
    pub private_address: Ipv4Addr,
    /// All private addresses of this instance: that one, the interface's others, and those of its
    /// other interfaces.
    pub private_addresses: Vec<Ipv4Addr>,
}

impl Network {
    /// This instance as a target of routes.
    pub fn nat(&self, instance: &Instance) -> Nat {
        Nat {
            instance: instance.instance_id.clone(),
            interface: self.interface_id.clone(),
            subnet: self.subnet_id.clone(),
            vpc: self.vpc_id.clone(),
            zone: self.availability_zone.clone(),
        }
    }
}

/// Under which IMDS is listed among the troubles.
const IMDS: &str = "IMDS";

/// IMDSv2 of this instance.
#[derive(Debug)]
pub struct Metadata {
    config: ProviderConfig,
    /// Replaced when its token is refused; the number counts the replacements.
    client: Mutex<(u32, Client)>,
    /// What cannot be read at present. Trouble with one path is trouble with IMDS until that path
    /// is read again.
    failing: std::sync::Mutex<BTreeSet<String>>,
    troubles: Troubles,
}

impl Metadata {
    /// Asks nothing yet. The endpoint is `AWS_EC2_METADATA_SERVICE_ENDPOINT` or the link-local
    /// address.
    pub fn new(http: SharedHttpClient, troubles: Troubles) -> Self {
        let config = imds_config(http);
        let client = Mutex::new((0, imds_client(&config)));
        Self {
            config,
            client,
            failing: std::sync::Mutex::default(),
            troubles,
        }
    }

    /// Region and instance ID.
    pub async fn instance(&self) -> Result<Instance> {
        let (region, instance_id) = tokio::try_join!(
            self.value("placement/region", Region::from_str),
            self.value("instance-id", InstanceId::from_str),
        )?;
        Ok(Instance {
            region,
            instance_id,
        })
    }

    /// Its place in the VPC.
    pub async fn network(&self) -> Result<Network> {
        let mac = self.value("mac", Mac::from_str).await?;
        let of_interface = |name: &str| format!("network/interfaces/macs/{mac}/{name}");
        let (zone, vpc, blocks, subnet, interface, mut addresses, of_others) = tokio::try_join!(
            self.value("placement/availability-zone", Zone::from_str),
            self.value(of_interface("vpc-id"), VpcId::from_str),
            self.list(
                of_interface("vpc-ipv4-cidr-blocks"),
                cidr_block,
                Odd::LeftOut
            ),
            self.value(of_interface("subnet-id"), SubnetId::from_str),
            self.value(of_interface("interface-id"), InterfaceId::from_str),
            self.list(of_interface("local-ipv4s"), address, Odd::NotFirst),
            self.addresses_of_others(mac),
        )?;
        let private_address = addresses[0];
        addresses.extend(of_others);
        Ok(Network {
            availability_zone: zone,
            vpc_id: vpc,
            vpc_cidr_blocks: blocks,
            subnet_id: subnet,
            interface_id: interface,
            mac,
            private_address,
            private_addresses: addresses,
        })
    }

    /// Of all interfaces but one. One that has no private IPv4 address has no such list.
    async fn addresses_of_others(&self, primary: Mac) -> Result<Vec<Ipv4Addr>> {
        let path = "network/interfaces/macs/";
        let text = self.text(path).await?.unwrap_or_default();
        let mut found = Vec::new();
        for mac in read_lines(&text, path, listed_mac, &self.troubles) {
            if mac != primary {
                let path = format!("{path}{mac}/local-ipv4s");
                let text = self.text(&path).await?.unwrap_or_default();
                found.extend(read_lines(&text, &path, address, &self.troubles));
            }
        }
        Ok(found)
    }

    /// Where the Auto Scaling group is taking this instance; absent outside a group.
    pub async fn target_state(&self) -> Result<Option<TargetState>> {
        let path = "autoscaling/target-lifecycle-state";
        self.optional(path, TargetState::from_str).await
    }

    /// Whether EC2 takes a Spot Instance back.
    pub async fn interruption(&self) -> Result<Option<Interruption>> {
        let path = "spot/instance-action";
        self.optional(path, Interruption::from_str).await
    }

    /// Whether EC2 recommends to rebalance it.
    pub async fn rebalance(&self) -> Result<Option<Time>> {
        let path = "events/recommendations/rebalance";
        self.optional(path, recommendation).await
    }

    async fn value<T>(&self, path: impl Into<String>, parse: Parse<T>) -> Result<T> {
        let path = path.into();
        let text = self.text(&path).await?;
        text.ok_or_else(|| anyhow!("not there (404)"))
            .and_then(|text| Ok(parse(&text)?))
            .with_context(|| reading(&path))
    }

    /// One value a line. What is odd is left out; an error where nothing else is there.
    async fn list<T>(&self, path: String, parse: Parse<T>, odd: Odd) -> Result<Vec<T>> {
        let text = self.text(&path).await?.unwrap_or_default();
        lines(&text, &path, parse, odd, &self.troubles).with_context(|| reading(&path))
    }

    /// One value, or none: 404 means that there is no such thing, which is an answer.
    async fn optional<T>(&self, path: &str, parse: Parse<T>) -> Result<Option<T>> {
        let text = self.text(path).await?;
        let value = text.map(|text| parse(&text)).transpose();
        value.with_context(|| reading(path))
    }

    /// One read, tried again for as long as the run lasts while IMDS is slow, busy or not up
    /// yet, and with a new token when the one we have has been refused: the SDK's client keeps
    /// using a token until its time is up, even after a 401.
    async fn text(&self, path: &str) -> Result<Option<String>> {
        let mut failures = 0;
        loop {
            let (tokens, client) = {
                let client = self.client.lock().await;
                (client.0, client.1.clone())
            };
            let error = match client.get(format!("/latest/meta-data/{path}")).await {
                Ok(text) => {
                    self.answered(path);
                    return Ok(Some(text.into()));
                }
                Err(error) => error,
            };
            match status(&error) {
                Some(404) => {
                    self.answered(path);
                    return Ok(None);
                }
                Some(401) => self.renew_token(tokens).await,
                Some(400..=499) => {
                    self.answered(path);
                    return Err(failed(path, &error));
                }
                _ => {}
            }
            self.failing().insert(path.to_owned());
            self.troubles
                .note(IMDS, &format!("{:#}", failed(path, &error)));
            tokio::time::sleep(imds_wait(failures)).await;
            failures += 1;
        }
    }

    fn answered(&self, path: &str) {
        let mut failing = self.failing();
        failing.remove(path);
        if failing.is_empty() {
            self.troubles.clear(IMDS);
        }
    }

    fn failing(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Whatever panicked elsewhere, a set of texts is whole.
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once for all the reads that were under way with the refused token.
    async fn renew_token(&self, refused: u32) {
        let mut client = self.client.lock().await;
        if client.0 == refused {
            *client = (refused + 1, imds_client(&self.config));
        }
    }
}

/// Which values of a list may be odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Odd {
    /// Any.
    LeftOut,
    /// Not the first one, which counts more than the others.
    NotFirst,
}

fn lines<T>(
    text: &str,
    path: &str,
    parse: Parse<T>,
    odd: Odd,
    troubles: &Troubles,
) -> Result<Vec<T>> {
    let first = text.lines().next().context("the list is empty")?;
    if odd == Odd::NotFirst {
        parse(first)?;
    }
    let list = read_lines(text, path, parse, troubles);
    if list.is_empty() {
        parse(first)?;
    }
    Ok(list.into_iter().collect())
}

/// One value a line, or none. What is odd is named and left out.
fn read_lines<T>(text: &str, path: &str, parse: Parse<T>, troubles: &Troubles) -> List<T> {
    let lines: Vec<&str> = text.lines().collect();
    List::read(
        &lines,
        &format!("of {path} from IMDS"),
        |line| Some(*line),
        |line| Ok(parse(line)?),
        troubles,
    )
}

/// What an IMDS client needs to know.
pub fn imds_config(http: SharedHttpClient) -> ProviderConfig {
    ProviderConfig::without_region()
        .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
        .with_http_client(http)
}

/// A client that makes one attempt: its users know better when to make the next.
pub fn imds_client(config: &ProviderConfig) -> Client {
    Client::builder()
        .configure(config)
        .max_attempts(1)
        .read_timeout(IMDS_TIMEOUT)
        .operation_attempt_timeout(IMDS_TIMEOUT)
        .build()
}

/// The status IMDS answered a read or a token's request with, if it answered.
fn status(error: &ImdsError) -> Option<u16> {
    match error {
        ImdsError::ErrorResponse(response) => Some(response.response().status().as_u16()),
        _ => None,
    }
}

fn failed(path: &str, error: &ImdsError) -> anyhow::Error {
    let cause = match status(error) {
        Some(status) => anyhow!("status {status}"),
        None => anyhow!(causes(error)),
    };
    cause.context(reading(path))
}

/// Makes a value of what IMDS answers.
type Parse<T> = fn(&str) -> Result<T, Malformed>;

/// A VPC's blocks are /16 to /28 (VPC user guide, "VPC CIDR blocks"). Somewhat larger ones are
/// let pass; one that is most of the Internet would leave nothing to masquerade.
fn cidr_block(text: &str) -> Result<Ipv4Net, Malformed> {
    let block: Option<Ipv4Net> = text.parse().ok();
    block
        .filter(|block| block.prefix_len() >= 8)
        .ok_or_else(|| Malformed::new("a VPC's CIDR block such as 10.0.0.0/16", text))
}

/// In a list of what is below a path, each ends with a slash.
fn listed_mac(text: &str) -> Result<Mac, Malformed> {
    text.trim_end_matches('/').parse()
}

fn address(text: &str) -> Result<Ipv4Addr, Malformed> {
    text.parse()
        .map_err(|_| Malformed::new("an IPv4 address", text))
}

fn reading(path: &str) -> String {
    format!("reading {path} from IMDS")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aws::lists::tests::odd_text;

    #[test]
    fn it_is_asked_again_ever_more_slowly() {
        let waits: Vec<u128> = (0..6).map(|n| imds_wait(n).as_millis()).collect();
        assert_eq!(waits, [50, 200, 500, 1000, 2000, 2000]);
    }

    fn blocks(text: &str, odd: Odd) -> Result<Vec<String>> {
        let blocks = lines(text, "blocks", cidr_block, odd, &Troubles::default())?;
        Ok(blocks.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_first_may_have_to_be_right_and_one_must() {
        let both = "10.0.0.0/16\nodd\n10.0.0.0/16\n10.1.0.0/16";
        for odd in [Odd::LeftOut, Odd::NotFirst] {
            assert_eq!(blocks(both, odd).unwrap(), ["10.0.0.0/16", "10.1.0.0/16"]);
        }
        assert_eq!(
            blocks("odd\n10.1.0.0/16", Odd::LeftOut).unwrap(),
            ["10.1.0.0/16"]
        );
        assert!(blocks("odd\n10.1.0.0/16", Odd::NotFirst).is_err());
        assert!(
            blocks("odd", Odd::LeftOut)
                .unwrap_err()
                .to_string()
                .contains("\"odd\"")
        );
        assert!(blocks("", Odd::LeftOut).is_err());
    }

    proptest! {
        #[test]
        fn an_odd_line_hides_no_other(odd in proptest::collection::vec(odd_text(), 0..6)) {
            let mut text: Vec<String> = odd.into_iter().flatten().collect();
            text.insert(text.len() / 2, "10.9.0.0/16".to_owned());
            let found = blocks(&text.join("\n"), Odd::LeftOut).unwrap();
            prop_assert!(found.contains(&"10.9.0.0/16".to_owned()));
        }
    }
}
