//! The one HTTP client of this program: the AWS SDK's calls, IMDS and the egress probes share
//! its connections, its TLS configuration and its DNS resolver.
//!
//! No proxy is used, whatever the environment says: IMDS must not be asked through one, and an
//! instance that needs one to get out is no NAT.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

/// The VPC's own resolver, reachable from every instance.
/// Source: VPC user guide, "DNS attributes for your VPC" (Amazon DNS server).
const AMAZON_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253));

/// How long a TCP connection (and TLS handshake) may take. AWS endpoints and IMDS answer within
/// tens of milliseconds; a lost SYN is sent again after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Builds the client. Fails where the DNS configuration or `AWS_CA_BUNDLE` cannot be read.
pub fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .dns_resolver(Dns::from_system()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .context("setting up the HTTP client")
}

/// The same client as the AWS SDK wants it.
pub fn for_aws(client: reqwest::Client) -> SharedHttpClient {
    http_client_fn(move |settings, _| {
        SharedHttpConnector::new(Connector {
            client: client.clone(),
            read_timeout: settings.read_timeout(),
        })
    })
}

fn tls() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .with_root_certificates(roots()?)
        .with_no_client_auth())
}

/// `AWS_CA_BUNDLE` alone where it is set (as in the AWS CLI), else the system's roots, else,
/// in an image that has none, Mozilla's, which are built in.
fn roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(bundle) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        let doing = || format!("reading AWS_CA_BUNDLE {}", bundle.display());
        for certificate in CertificateDer::pem_file_iter(&bundle).with_context(doing)? {
            roots
                .add(certificate.with_context(doing)?)
                .with_context(doing)?;
        }
        ensure!(!roots.is_empty(), "{}: no certificate in it", doing());
        return Ok(roots);
    }
    let system = system_roots();
    for error in &system.errors {
        tracing::debug!("reading the system's root certificates: {error}");
    }
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

/// The system's bundle alone where it has one: distributions keep the same certificates once
/// more in single files, and reading them all twice would be a quarter of this program's work.
fn system_roots() -> CertificateResult {
    let named = openssl_probe::has_ssl_cert_env_vars();
    let bundle = openssl_probe::probe().cert_file.filter(|_| !named);
    bundle
        .map(|bundle| load_certs_from_paths(Some(&bundle), None))
        .filter(|loaded| !loaded.certs.is_empty())
        .unwrap_or_else(load_native_certs)
}

/// DNS in this process: a static binary must not call `getaddrinfo`, which loads the host's
/// NSS modules at run time. IPv4 only, since that is what a NAT is for: a probe answered over
/// IPv6 would prove nothing.
#[derive(Clone)]
struct Dns(TokioResolver);

impl Dns {
    fn from_system() -> Result<Self> {
        let mut builder = match TokioResolver::builder_tokio() {
            Ok(builder) => builder,
            Err(error) => {
                tracing::warn!(
                    "reading /etc/resolv.conf: {error}; asking the VPC's resolver {AMAZON_DNS}"
                );
                let amazon = NameServerConfig::udp_and_tcp(AMAZON_DNS);
                TokioResolver::builder_with_config(
                    ResolverConfig::from_name_servers(vec![amazon]),
                    TokioRuntimeProvider::default(),
                )
            }
        };
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4Only;
        let resolver = builder.build().context("setting up DNS")?;
        Ok(Self(resolver))
    }
}

impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Carries the requests of the AWS SDK, whose bodies are small and held in memory.
#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
    read_timeout: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        let read_timeout = self.read_timeout;
        HttpConnectorFuture::new(exchange(client, read_timeout, request))
    }
}

async fn exchange(
    client: reqwest::Client,
    read_timeout: Option<Duration>,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
    let request = request.try_into_http1x().map_err(user_error)?;
    let (parts, body) = request.into_parts();
    let body = body.bytes().map(<[u8]>::to_vec);
    let body = body.ok_or_else(|| user_error("the request's body is a stream"))?;
    let request = http::Request::from_parts(parts, body);
    let mut request = reqwest::Request::try_from(request).map_err(user_error)?;
    *request.timeout_mut() = read_timeout;

    let response = client.execute(request).await.map_err(connector_error)?;
    let status = response.status();
    let headers = response.headers().clone();
    let body = response.bytes().await.map_err(connector_error)?;
    if is_xml(&headers) && !is_whole_xml(&body) {
        return Err(ConnectorError::io("the answer broke off".into()));
    }
    let mut response = http::Response::new(SdkBody::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    HttpResponse::try_from(response).map_err(|e| ConnectorError::io(e.into()))
}

fn is_xml(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.contains("xml"))
}

/// Whether a document ends with the element it begins with. The SDK's parser takes an answer
/// that ends early for one with fewer items, and half a list of route tables is not an answer.
fn is_whole_xml(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    let text = text.trim();
    let prolog = if text.starts_with("<?") {
        text.find("?>").map_or(text.len(), |at| at + 2)
    } else {
        0
    };
    let Some(root) = text[prolog..].trim_start().strip_prefix('<') else {
        return false;
    };
    let name_ends = root.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/'));
    let Some(name) = name_ends.map(|at| &root[..at]) else {
        return false;
    };
    let end = text.strip_suffix('>').map(str::trim_end);
    end.and_then(|end| end.strip_suffix(name))
        .is_some_and(|end| end.ends_with("</"))
}

fn user_error(error: impl Into<BoxError>) -> ConnectorError {
    ConnectorError::user(error.into())
}

/// Sorts what went wrong the way the SDK's retries want it: time-outs and broken connections
/// are tried again.
fn connector_error(error: reqwest::Error) -> ConnectorError {
    let connecting = error.is_connect();
    let error = if error.is_timeout() {
        ConnectorError::timeout(error.into())
    } else if error.is_builder() {
        ConnectorError::user(error.into())
    } else {
        ConnectorError::io(error.into())
    };
    if connecting {
        error.never_connected()
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <DescribeResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
        <routeTableSet><item><a/></item><item>x</item></routeTableSet></DescribeResponse>\n";

    #[test]
    fn a_whole_answer() {
        assert!(is_whole_xml(WHOLE.as_bytes()));
        assert!(is_whole_xml(b"<a></a>"));
        assert!(!is_whole_xml(b""));
        assert!(!is_whole_xml(b"garbled"));
        assert!(!is_whole_xml(b"<a></b></a"));
        assert!(!is_whole_xml(b"\xff\xfe"));
    }

    proptest! {
        #[test]
        fn an_answer_cut_anywhere_is_not_whole(cut in 0..WHOLE.trim_end().len()) {
            prop_assert!(!is_whole_xml(&WHOLE.as_bytes()[..cut]));
        }

        #[test]
        fn checking_never_panics(body: Vec<u8>) {
            is_whole_xml(&body);
        }
    }
}
