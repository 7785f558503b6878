//! The kernel's connection table, over netlink: it forgets what began before our rules were there.
//!
//! Whether and how a connection is translated is decided once, for its first packet, and kept in
//! its entry: one that is confirmed is never translated any more (`nf_nat_setup_info` of
//! `net/netfilter/nf_nat_core.c`). A client that sends on and on, such as a UDP flow, would hold its
//! untranslated entry for ever. Once that is forgotten, its next packet is the first one.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use ipnet::Ipv4Net;
use netlink_bindings::conntrack::{
    IterableConntrackAttrs, IterableTupleAttrs, Nfgenmsg, PushConntrackAttrs, Request,
};
use netlink_bindings::traits::{NetlinkRequest, Protocol, Pusher};
use netlink_bindings::utils::ErrorContext;
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::routing::{self, Kind, Way};
use super::ruleset::FAMILY_IPV4;

/// `NETLINK_NETFILTER`.
const NETFILTER: u16 = 12;

/// `NFNL_SUBSYS_CTNETLINK` of `linux/netfilter/nfnetlink.h` and `IPCTNL_MSG_CT_DELETE` of
/// `linux/netfilter/nfnetlink_conntrack.h`.
const DELETE: u16 = (1 << 8) | 2;

/// Where nobody but the instance and its own containers may send to: our rules drop it.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// What our rules translate.
#[derive(Debug)]
pub struct Translated<'a> {
    /// The number of the interface that it leaves by.
    pub interface: u32,
    /// From whom never: the instance itself.
    pub own: &'a [Ipv4Addr],
    /// Where to never.
    pub vpc: &'a [Ipv4Net],
    /// From whom; none: from everybody.
    pub sources: &'a [Ipv4Net],
}

/// What came of it.
#[derive(Debug)]
pub enum Forgotten {
    /// So many entries.
    Entries(usize),
    /// Nothing: this kernel does not show its table.
    Unseen(String),
}

impl Forgotten {
    /// What was changed.
    pub fn change(&self) -> Option<String> {
        match self {
            Self::Entries(0) | Self::Unseen(_) => None,
            Self::Entries(1) => Some("connection table: 1 untranslated entry forgotten".to_owned()),
            Self::Entries(entries) => Some(format!(
                "connection table: {entries} untranslated entries forgotten"
            )),
        }
    }

    /// What deserves a look.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Entries(_) => None,
            Self::Unseen(why) => Some(format!(
                "connections that are older than the rules may go on untranslated: the kernel does \
                 not show its connection table: {why}"
            )),
        }
    }
}

/// Forgets the connections that our rules would translate and that go out untranslated, and those of
/// others to where nothing is forwarded. It is for the moment after the rules were put in place:
/// what begins from then on is as they say.
pub fn forget(socket: &mut NetlinkSocket, translated: &Translated<'_>) -> Result<Forgotten> {
    let routes = routing::routes(socket)?.into_iter();
    let local = routes.filter(|route| route.kind == Kind::Local);
    let local: Vec<Ipv4Net> = local.map(|route| route.prefix).collect();
    let suspects = match suspects(socket, translated, &local) {
        Ok(suspects) => suspects,
        Err(Dump::Unseen(why)) => return Ok(Forgotten::Unseen(why)),
        Err(Dump::Failed(error)) => return Err(error).context("reading the connection table"),
    };
    let mut forgotten = 0;
    for (entry, suspicion) in suspects {
        let interface = translated.interface;
        let mut goes = |from, to| -> Result<bool> {
            let way = routing::way(socket, interface, from, to)?;
            Ok(matches!(way, Way::By(by) if by.contains(&interface)))
        };
        let (source, destination) = (entry.source, entry.destination);
        let stale = (suspicion.leaves && goes(source, destination)?)
            || (suspicion.comes && goes(destination, source)?);
        if stale && entry.delete(socket)? {
            forgotten += 1;
        }
    }
    Ok(Forgotten::Entries(forgotten))
}

/// Why there is no list.
enum Dump {
    Unseen(String),
    Failed(anyhow::Error),
}

fn suspects(
    socket: &mut NetlinkSocket,
    translated: &Translated<'_>,
    local: &[Ipv4Net],
) -> Result<Vec<(Entry, Suspicion)>, Dump> {
    let request = Request::new().op_get_dump(&header());
    let replies = socket.request(&request);
    let mut replies =
        replies.map_err(|error| Dump::Failed(anyhow!("asking the kernel: {error}")))?;
    let mut found = Vec::new();
    while let Some(reply) = replies.recv() {
        let (_, attributes) = reply.map_err(|error| Dump::new(&error))?;
        let entry = Entry::new(&attributes);
        let entry = entry.map_err(|error| {
            Dump::Failed(anyhow!("the kernel's answer lacks something: {error}"))
        })?;
        if let Some(entry) = entry
            && let Some(suspicion) = translated.suspicion(&entry, local)
        {
            found.push((entry, suspicion));
        }
    }
    Ok(found)
}

impl Dump {
    /// Of a subsystem that it does not know, and has no module for, the kernel says EINVAL
    /// (`nfnetlink_rcv_msg` of `net/netfilter/nfnetlink.c`).
    fn new(error: &ReplyError) -> Self {
        let error = error.as_io_error();
        match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::NotFound => {
                Self::Unseen(format!("{error}; the kernel may lack nf_conntrack_netlink"))
            }
            _ => Self::Failed(anyhow!("{error}")),
        }
    }
}

/// A connection that the kernel knows, as far as it matters here.
#[derive(Debug)]
struct Entry {
    /// Who began it, as it was sent.
    source: Ipv4Addr,
    /// Where its packets go, after translation.
    destination: Ipv4Addr,
    /// Where answers go to, before they are translated back.
    answered_at: Ipv4Addr,
    /// What it is found by, as the kernel wrote it: addresses, protocol, and what else that has.
    tuple: Vec<u8>,
    /// The kernel's number, which no later entry of the same tuple has.
    id: u32,
}

impl Entry {
    /// None in other zones than the first: whoever makes those looks after them.
    fn new(attributes: &IterableConntrackAttrs<'_>) -> Result<Option<Self>, ErrorContext> {
        let (asked, answered) = (attributes.get_tuple_orig()?, attributes.get_tuple_reply()?);
        let zones = [
            attributes.get_zone(),
            asked.get_tuple_zone(),
            answered.get_tuple_zone(),
        ];
        if zones.into_iter().flatten().any(|zone| zone != 0) {
            return Ok(None);
        }
        let addresses = |tuple: &IterableTupleAttrs<'_>| {
            let ip = tuple.get_tuple_ip()?;
            Ok((ip.get_ip_v4_src()?, ip.get_ip_v4_dst()?))
        };
        let (source, _) = addresses(&asked)?;
        let (destination, answered_at) = addresses(&answered)?;
        Ok(Some(Self {
            source,
            destination,
            answered_at,
            tuple: asked.get_buf().to_vec(),
            id: attributes.get_id()?,
        }))
    }

    /// Whether it was still there.
    fn delete(&self, socket: &mut NetlinkSocket) -> Result<bool> {
        let doing = || {
            let (from, to) = (self.source, self.destination);
            format!("forgetting the connection from {from} to {to}")
        };
        let deletion = Deletion::new(self);
        let mut replies = socket.request(&deletion).with_context(doing)?;
        match replies.recv_ack() {
            Ok(()) => Ok(true),
            Err(error) if error.as_io_error().kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(anyhow!("{}", error.as_io_error())).with_context(doing),
        }
    }
}

/// What has to be true of an entry's ways for it to go: either is enough.
#[derive(Debug, PartialEq, Eq)]
struct Suspicion {
    /// That its packets leave by the interface.
    leaves: bool,
    /// That they come in by it.
    comes: bool,
}

impl Translated<'_> {
    fn suspicion(&self, entry: &Entry, local: &[Ipv4Net]) -> Option<Suspicion> {
        let within = |blocks: &[Ipv4Net], address: &Ipv4Addr| {
            blocks.iter().any(|block| block.contains(address))
        };
        if self.own.contains(&entry.source) || within(local, &entry.source) {
            return None;
        }
        let is_translated = entry.answered_at != entry.source;
        let would_be = !within(self.vpc, &entry.destination)
            && (self.sources.is_empty() || within(self.sources, &entry.source));
        let suspicion = Suspicion {
            leaves: would_be && !is_translated,
            comes: LINK_LOCAL.contains(&entry.destination),
        };
        (suspicion.leaves || suspicion.comes).then_some(suspicion)
    }
}

fn header() -> Nfgenmsg {
    Nfgenmsg {
        nfgen_family: FAMILY_IPV4,
        ..Default::default()
    }
}

/// The library knows this subsystem's reading requests only.
struct Deletion(Vec<u8>);

impl Deletion {
    /// Always with a tuple: without one the kernel would delete everything.
    fn new(entry: &Entry) -> Self {
        let mut payload = header().as_slice().to_vec();
        let mut tuple = PushConntrackAttrs::new(&mut payload).nested_tuple_orig();
        tuple.as_vec_mut().extend(&entry.tuple);
        tuple.end_nested().push_id(entry.id);
        Self(payload)
    }
}

impl NetlinkRequest for Deletion {
    type ReplyType<'buf> = ();

    fn protocol(&self) -> Protocol {
        Protocol::Raw {
            protonum: NETFILTER,
            request_type: DELETE,
        }
    }

    fn flags(&self) -> u16 {
        0
    }

    fn payload(&self) -> &[u8] {
        &self.0
    }

    fn decode_reply(_: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAVES: Option<Suspicion> = Some(Suspicion {
        leaves: true,
        comes: false,
    });

    fn blocks(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn entry(source: &str, destination: &str, answered_at: &str) -> Entry {
        let address = |text: &str| text.parse().unwrap();
        Entry {
            source: address(source),
            destination: address(destination),
            answered_at: address(answered_at),
            tuple: vec![1, 2, 3, 4],
            id: 7,
        }
    }

    fn suspicion(entry: &Entry, sources: &[&str]) -> Option<Suspicion> {
        let translated = Translated {
            interface: 2,
            own: &["10.0.0.4".parse().unwrap(), "10.0.0.5".parse().unwrap()],
            vpc: &blocks(&["10.0.0.0/16", "10.7.0.0/16"]),
            sources: &blocks(sources),
        };
        translated.suspicion(entry, &blocks(&["127.0.0.0/8", "172.17.0.1/32"]))
    }

    #[test]
    fn what_goes_out_untranslated_is_to_go() {
        for (source, answered_at, expected) in [
            ("10.0.1.10", "10.0.1.10", LEAVES),
            ("192.168.7.10", "192.168.7.10", LEAVES),
            // A container's.
            ("172.17.0.2", "172.17.0.2", LEAVES),
            ("10.0.1.10", "10.0.0.4", None),
            // To whatever address: that is for whoever gave it.
            ("10.0.1.10", "10.0.0.99", None),
        ] {
            let entry = entry(source, "203.0.113.10", answered_at);
            assert_eq!(suspicion(&entry, &[]), expected, "{entry:?}");
        }
    }

    #[test]
    fn the_instances_own_connections_stay() {
        for own in ["10.0.0.4", "10.0.0.5", "127.0.0.1", "172.17.0.1"] {
            for to in ["203.0.113.10", "169.254.169.254"] {
                assert_eq!(suspicion(&entry(own, to, own), &[]), None, "{own} to {to}");
            }
        }
    }

    #[test]
    fn what_stays_in_the_vpc_stays() {
        for to in ["10.0.1.11", "10.7.0.1", "10.0.0.4"] {
            let entry = entry("10.0.1.10", to, "10.0.1.10");
            assert_eq!(suspicion(&entry, &[]), None, "{to}");
        }
    }

    #[test]
    fn only_whom_the_rules_translate() {
        let sources = ["192.168.0.0/16"];
        let left_out = entry("10.0.1.10", "203.0.113.10", "10.0.1.10");
        assert_eq!(suspicion(&left_out, &sources), None);
        let named = entry("192.168.7.10", "203.0.113.10", "192.168.7.10");
        assert_eq!(suspicion(&named, &sources), LEAVES);
    }

    #[test]
    fn nobody_keeps_a_way_to_the_metadata() {
        for (answered_at, leaves) in [("10.0.1.10", true), ("10.0.0.4", false)] {
            let entry = entry("10.0.1.10", "169.254.169.254", answered_at);
            let expected = Suspicion {
                leaves,
                comes: true,
            };
            assert_eq!(suspicion(&entry, &[]), Some(expected));
        }
    }

    #[test]
    fn a_deletion_names_one_entry() {
        let deletion = Deletion::new(&entry("10.0.1.10", "203.0.113.10", "10.0.1.10"));
        let (_, read) = netlink_bindings::conntrack::OpGetDump::decode_request(deletion.payload());
        assert_eq!(read.get_tuple_orig().unwrap().get_buf(), [1, 2, 3, 4]);
        assert_eq!(read.get_id(), Ok(7));
    }
}
