//! The kernel's IPv4 routes and rules, over netlink: which there are, and where it would send a
//! packet.
//!
//! Numbers are those of `linux/rtnetlink.h`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, anyhow};
use ipnet::Ipv4Net;
use netlink_bindings::rt_route::{IterableRouteAttrs, Request, RtmFlag, RtmType, Rtmsg};
use netlink_bindings::rt_rule::{self, FibRuleHdr};
use netlink_bindings::traits::NetlinkRequest;
use netlink_bindings::utils::ErrorContext;
use netlink_socket2::NetlinkSocket;

/// `AF_INET`.
const IPV4: u8 = 2;

/// A route of any table.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where to.
    pub prefix: Ipv4Net,
    /// What becomes of the packet.
    pub kind: Kind,
    /// By which it goes on, by the kernel's number; none where those are several, or there is none.
    pub interface: Option<u32>,
    /// To whom it goes on, where that is not its destination.
    pub gateway: Option<Ipv4Addr>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes on, or is dropped.
    Onward,
    /// It is for this host.
    Local,
    /// It is for several hosts at once.
    Broadcast,
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out by the interfaces of these numbers; by several where a route has several paths.
    By(Vec<u32>),
    /// To this host itself.
    Here,
    /// To nobody: a route says so, or it is not believed to come from where it says.
    Nowhere,
    /// There is no route.
    Unknown,
}

/// The routes of all tables.
pub fn routes(socket: &mut NetlinkSocket) -> Result<Vec<Route>> {
    let ipv4 = Rtmsg {
        rtm_family: IPV4,
        ..Default::default()
    };
    let mut routes = Vec::new();
    let request = Request::new().op_getroute_dump(&ipv4);
    let dumped = dump(socket, &request, |(header, attributes)| {
        routes.push(Route::new(&header, &attributes)?);
        Ok(())
    });
    dumped.context("listing the routes")?;
    Ok(routes)
}

/// The prefixes that rules for choosing a table have packets go to.
pub fn rules(socket: &mut NetlinkSocket) -> Result<Vec<Ipv4Net>> {
    let ipv4 = FibRuleHdr {
        family: IPV4,
        ..Default::default()
    };
    let mut prefixes = Vec::new();
    let request = rt_rule::Request::new().op_getrule_dump(&ipv4);
    let dumped = dump(socket, &request, |(header, attributes)| {
        if header.dst_len > 0 {
            prefixes.extend(prefix(attributes.get_dst()?, header.dst_len));
        }
        Ok(())
    });
    match dumped {
        Err(error) if error.downcast_ref().is_some_and(knows_no_rules) => {}
        dumped => dumped.context("listing the routing rules")?,
    }
    Ok(prefixes)
}

/// What a kernel says that is built without policy routing: nobody to ask (`net/core/rtnetlink.c`), or
/// nobody for IPv4 (`net/core/fib_rules.c`).
fn knows_no_rules(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == ErrorKind::Unsupported || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn dump<R: NetlinkRequest>(
    socket: &mut NetlinkSocket,
    request: &R,
    mut add: impl FnMut(R::ReplyType<'_>) -> Result<(), ErrorContext>,
) -> Result<()> {
    let mut replies = socket.request(request)?;
    while let Some(reply) = replies.recv() {
        let reply = reply.map_err(io::Error::from)?;
        add(reply).map_err(|error| anyhow!("the kernel's answer lacks something: {error}"))?;
    }
    Ok(())
}

impl Route {
    fn new(header: &Rtmsg, attributes: &IterableRouteAttrs<'_>) -> Result<Self, ErrorContext> {
        let to = match header.rtm_dst_len {
            0 => None,
            length => prefix(attributes.get_dst()?, length),
        };
        Ok(Self {
            prefix: to.unwrap_or_default(),
            kind: kind(header.rtm_type),
            interface: attributes.get_oif().ok(),
            gateway: match attributes.get_gateway() {
                Ok(IpAddr::V4(gateway)) => Some(gateway),
                _ => None,
            },
        })
    }
}

fn prefix(address: IpAddr, length: u8) -> Option<Ipv4Net> {
    match address {
        IpAddr::V4(address) => Ipv4Net::new(address, length).ok(),
        IpAddr::V6(_) => None,
    }
}

fn kind(number: u8) -> Kind {
    let is = |known: RtmType| number == known as u8;
    if is(RtmType::Local) {
        Kind::Local
    } else if is(RtmType::Broadcast) || is(RtmType::Anycast) || is(RtmType::Multicast) {
        Kind::Broadcast
    } else {
        Kind::Onward
    }
}

/// Where a packet from `source` that came in by the interface would go. Nothing is sent.
pub fn way(
    socket: &mut NetlinkSocket,
    interface: u32,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<Way> {
    match ask(socket, destination, Some((interface, source)))? {
        // That is what it says of everything while the interface does not forward, and where a
        // strict reverse path filter drops the source.
        Way::Nowhere | Way::Unknown => ask(socket, destination, None),
        way => Ok(way),
    }
}

/// Of a packet that did not come in it is this host's own that is asked for.
fn ask(
    socket: &mut NetlinkSocket,
    destination: Ipv4Addr,
    came_in: Option<(u32, Ipv4Addr)>,
) -> Result<Way> {
    let header = Rtmsg {
        rtm_family: IPV4,
        rtm_dst_len: 32,
        rtm_src_len: if came_in.is_some() { 32 } else { 0 },
        // The whole route, not only the path that this packet would take where it has several.
        rtm_flags: RtmFlag::FibMatch as u32,
        ..Default::default()
    };
    let mut request = Request::new().op_getroute_do(&header);
    let mut attributes = request.encode().push_dst(destination.into());
    if let Some((interface, source)) = came_in {
        attributes = attributes.push_src(source.into()).push_iif(interface);
    }
    drop(attributes);
    let context = || format!("asking the kernel for its route to {destination}");
    let mut replies = socket.request(&request).with_context(context)?;
    match replies.recv_one() {
        Ok((header, attributes)) => Ok(match kind(header.rtm_type) {
            Kind::Local | Kind::Broadcast => Way::Here,
            Kind::Onward => Way::By(interfaces(&attributes)),
        }),
        Err(error) if error.as_io_error().kind() == ErrorKind::NetworkUnreachable => {
            Ok(Way::Unknown)
        }
        Err(error) if leads_nowhere(error.as_io_error()) => Ok(Way::Nowhere),
        Err(error) => Err(io::Error::from(error)).with_context(context),
    }
}

/// The answers to which no packet goes on: those of `fib_props` of `net/ipv4/fib_semantics.c`
/// (blackhole, prohibit, unreachable), and a source that is not believed (`fib_validate_source` of `net/ipv4/fib_frontend.c`).
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied
            | ErrorKind::HostUnreachable
            | ErrorKind::CrossesDevices
    )
}

fn interfaces(attributes: &IterableRouteAttrs<'_>) -> Vec<u32> {
    match attributes.get_multipath() {
        Ok(paths) => interfaces_of_paths(paths),
        Err(_) => attributes.get_oif().into_iter().collect(),
    }
}

/// Of a list of `struct rtnexthop`: two bytes of length (with what follows the struct), one of
/// flags, one of weight, four of the interface's number; each begins at a multiple of four.
fn interfaces_of_paths(mut paths: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while let [a, b, _, _, number @ ..] = paths
        && let Some(number) = number.first_chunk()
    {
        found.push(u32::from_ne_bytes(*number));
        let length = usize::from(u16::from_ne_bytes([*a, *b])).max(8);
        paths = paths.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_path_of_a_route_counts() {
        let path = |interface: u32, more: &[u8]| {
            let length = u16::try_from(8 + more.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0, 0]);
            bytes.extend(interface.to_ne_bytes());
            bytes.extend(more);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let gateway = [8, 0, 5, 0, 10, 0, 0, 1];
        let paths = [path(2, &gateway), path(3, &[1]), path(4, &[])];
        assert_eq!(interfaces_of_paths(&paths.concat()), [2, 3, 4]);
        assert_eq!(interfaces_of_paths(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn garbled_paths_are_read_to_their_end(paths: Vec<u8>) {
            prop_assert!(interfaces_of_paths(&paths).len() <= paths.len() / 8 + 1);
        }
    }
}
