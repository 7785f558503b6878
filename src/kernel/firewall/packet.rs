//! The packets that are followed, and what is known of each when it is forwarded. No I/O.
//!
//! Keys and numbers are those of `linux/netfilter/nf_tables.h` and `nf_conntrack_common.h`.

use ipnet::Ipv4Net;
use netlink_bindings::nftables::{CtKeys, FibFlags, MetaKeys, PayloadBase};

use super::values::Field;

/// As it is on the wire (`linux/if_ether.h`).
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: u16 = 1;
/// `RTN_UNICAST` of `linux/rtnetlink.h`: neither this host's address nor a broadcast one.
pub const UNICAST: u32 = 1;

/// `NFT_FIB_RESULT_OIF` and `NFT_FIB_RESULT_ADDRTYPE`.
const FIB_INTERFACE: u32 = 1;
const FIB_TYPE: u32 = 3;

const STATE_ESTABLISHED: u32 = 2;
const STATE_NEW: u32 = 8;

/// Bits of a connection's status (`IPS_…`): expected, answered, confirmed, source and destination
/// translated, dying; and assured, which takes more than one answer.
const EXPECTED: u32 = 1;
const ANSWERED: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const SOURCE_NAT: u32 = 1 << 4;
const DESTINATION_NAT: u32 = 1 << 5;
const DYING: u32 = 1 << 9;

/// What a NAT forwards for one block of the VPC, of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// By which it comes in and goes out.
    pub interface: &'a str,
    /// The kernel's number for it.
    pub index: u32,
    /// Where the client is.
    pub block: Ipv4Net,
    pub moment: Moment,
    pub protocol: Protocol,
    /// Whether what few such packets have is left out of account.
    pub typical: bool,
    pub marks: Marks,
}

/// Which packet of a connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The client's first one.
    First,
    /// Back to the client.
    Answer,
    /// The client's next ones.
    Later,
}

/// What a client uses; of ICMP that is ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Icmp = 1,
    Tcp = 6,
    Udp = 17,
}

/// Whether rules may have marked it. What is not marked has the mark 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub packet: bool,
    pub connection: bool,
}

impl Followed<'_> {
    /// What `meta` loads; none where the kernel has nothing of the kind, so that the rule does not
    /// go on.
    pub fn meta(&self, key: u32) -> Option<Field> {
        let is = |known: MetaKeys| known as u32 == key;
        let name = |name, interface: &str| {
            // The kernel compares 16 bytes, IFNAMSIZ.
            let mut bytes = interface.as_bytes().to_vec();
            bytes.resize(16, 0);
            Field::known(name, &bytes)
        };
        Some(if is(MetaKeys::Iifname) {
            name("iifname", self.interface)
        } else if is(MetaKeys::Oifname) {
            name("oifname", self.interface)
        } else if is(MetaKeys::Iif) {
            Field::known("iif", &self.index.to_ne_bytes())
        } else if is(MetaKeys::Oif) {
            Field::known("oif", &self.index.to_ne_bytes())
        } else if is(MetaKeys::Iftype) {
            Field::known("iiftype", &ETHERNET.to_ne_bytes())
        } else if is(MetaKeys::Oiftype) {
            Field::known("oiftype", &ETHERNET.to_ne_bytes())
        } else if is(MetaKeys::Nfproto) {
            Field::known("meta nfproto", &[super::FAMILY_IPV4])
        } else if is(MetaKeys::Protocol) {
            Field::known("meta protocol", &ETHERTYPE_IPV4)
        } else if is(MetaKeys::L4Proto) {
            self.protocol()
        } else if is(MetaKeys::Mark) {
            self.mark()
        } else if is(MetaKeys::Pkttype) {
            // PACKET_HOST: sent to this host's own link address.
            Field::known("meta pkttype", &[0])
        } else if is(MetaKeys::Secpath) {
            Field::known("meta ipsec", &[0])
        } else if is(MetaKeys::Skuid) || is(MetaKeys::Skgid) || is(MetaKeys::Cgroup) {
            // Of a socket of this host, which forwarded packets have none of.
            return None;
        } else if is(MetaKeys::Iifgroup) {
            Field::unknown("iifgroup", 4)
        } else if is(MetaKeys::Oifgroup) {
            Field::unknown("oifgroup", 4)
        } else {
            Field::unknown("meta", 16)
        })
    }

    pub fn protocol(&self) -> Field {
        Field::known("meta l4proto", &[self.protocol as u8])
    }

    pub fn mark(&self) -> Field {
        mark("meta mark", self.marks.packet)
    }

    pub fn connection_mark(&self) -> Field {
        mark("ct mark", self.marks.connection)
    }

    /// What `ct` loads.
    pub fn ct(&self, key: u32, direction: Option<u8>) -> Field {
        let is = |known: CtKeys| known as u32 == key;
        // Of the connection's first packets, not of its answers.
        let original = direction == Some(0);
        if is(CtKeys::State) {
            Field::known("ct state", &self.state().to_ne_bytes())
        } else if is(CtKeys::Direction) {
            Field::known("ct direction", &[u8::from(self.is_answer())])
        } else if is(CtKeys::Status) {
            let (known, set) = self.status();
            let (known, set) = (known.to_ne_bytes(), set.to_ne_bytes());
            Field::bits("ct status", known.to_vec(), set.to_vec())
        } else if is(CtKeys::Mark) {
            self.connection_mark()
        } else if is(CtKeys::L3protocol) {
            Field::known("ct l3proto", &[super::FAMILY_IPV4])
        } else if is(CtKeys::Protocol) {
            Field::known("ct protocol", &[self.protocol as u8])
        } else if (is(CtKeys::Src) || is(CtKeys::SrcIp)) && original {
            Field::address_in("ct original ip saddr", self.block, self.typical)
        } else if (is(CtKeys::Dst) || is(CtKeys::DstIp)) && original {
            Field::public_address("ct original ip daddr", self.typical)
        } else if (is(CtKeys::Src) || is(CtKeys::SrcIp)) && direction == Some(1) {
            Field::public_address("ct reply ip saddr", self.typical)
        } else if is(CtKeys::Zone) {
            Field::known("ct zone", &[0, 0])
        } else if is(CtKeys::Helper) {
            Field::unknown("ct helper", 16)
        } else {
            Field::unknown("ct", 16)
        }
    }

    fn is_answer(&self) -> bool {
        self.moment == Moment::Answer
    }

    /// Its bit among the connection's states.
    pub fn state(&self) -> u32 {
        if self.moment == Moment::First {
            STATE_NEW
        } else {
            STATE_ESTABLISHED
        }
    }

    /// The bits of the connection's status that are known, and those of them that are set. Before
    /// it leaves, the first packet is not translated yet.
    pub fn status(&self) -> (u32, u32) {
        let never = EXPECTED | DESTINATION_NAT | DYING;
        let answered = ANSWERED | CONFIRMED | SOURCE_NAT;
        if self.moment == Moment::First {
            (never | answered | ASSURED, 0)
        } else {
            (never | answered, answered)
        }
    }

    /// What `fib` loads.
    pub fn fib(&self, result: u32, flags: u32) -> Field {
        let has = |flag: FibFlags| flags & flag as u32 != 0;
        match result {
            FIB_TYPE => Field::known("fib type", &UNICAST.to_ne_bytes()),
            // Typically the way back is the way it came.
            FIB_INTERFACE if self.typical && has(FibFlags::Present) => {
                Field::known("fib oif", &[1])
            }
            FIB_INTERFACE if self.typical => Field::known("fib oif", &self.index.to_ne_bytes()),
            _ => Field::unknown("fib", 16),
        }
    }

    /// What `payload` loads: the parts of the header that these bytes have parts of.
    pub fn payload(&self, base: u32, offset: u32, len: u32) -> Vec<Field> {
        let header = if base == PayloadBase::NetworkHeader as u32 {
            self.network_header()
        } else if base == PayloadBase::TransportHeader as u32 {
            self.transport_header()
        } else if base == PayloadBase::LinkLayerHeader as u32 {
            let addresses = Field::unknown("ether", 12);
            vec![addresses, Field::known("ether type", &ETHERTYPE_IPV4)]
        } else {
            Vec::new()
        };
        // As much as the kernel has registers for.
        let (offset, len) = (offset as usize, len.min(64) as usize);
        let mut fields = Vec::new();
        let (mut at, mut found) = (0, 0);
        for field in header {
            let (from, to) = (at.max(offset), (at + field.len()).min(offset + len));
            if from < to {
                found += to - from;
                fields.push(field.part(from - at, to - from));
            }
            at += field.len();
        }
        if found < len {
            fields.push(Field::unknown("payload", len - found));
        }
        fields
    }

    fn network_header(&self) -> Vec<Field> {
        let client = |name| Field::address_in(name, self.block, self.typical);
        let server = |name| Field::public_address(name, self.typical);
        let (source, destination) = if self.is_answer() {
            (server("ip saddr"), client("ip daddr"))
        } else {
            (client("ip saddr"), server("ip daddr"))
        };
        vec![
            Field::known("ip version", &[0x45]),
            self.usually("ip dscp", &[0]),
            Field::unknown("ip length", 2),
            Field::unknown("ip id", 2),
            // "Don't fragment", and no fragment.
            self.usually("ip frag-off", &[0x40, 0]),
            // What is left of 64.
            self.usually("ip ttl", &[60]),
            Field::known("ip protocol", &[self.protocol as u8]),
            Field::unknown("ip checksum", 2),
            source,
            destination,
        ]
    }

    fn transport_header(&self) -> Vec<Field> {
        let port = |name| Field::port(name, self.typical);
        match self.protocol {
            Protocol::Udp => vec![port("udp sport"), port("udp dport")],
            Protocol::Tcp => vec![
                port("tcp sport"),
                port("tcp dport"),
                Field::unknown("tcp", 9),
                self.flags(),
            ],
            Protocol::Icmp => {
                let request = if self.is_answer() { 0 } else { 8 };
                vec![
                    Field::known("icmp type", &[request]),
                    Field::known("icmp code", &[0]),
                ]
            }
        }
    }

    /// Those of TCP (RFC 9293): SYN opens a connection, after that mostly ACK alone is set.
    fn flags(&self) -> Field {
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        if self.moment == Moment::First {
            Field::bits("tcp flags", vec![FIN_SYN_RST_ACK], vec![SYN])
        } else {
            self.usually("tcp flags", &[ACK])
        }
    }

    fn usually(&self, name: &'static str, value: &[u8]) -> Field {
        if self.typical {
            Field::known(name, value)
        } else {
            Field::unknown(name, value.len())
        }
    }
}

fn mark(name: &'static str, marked: bool) -> Field {
    if marked {
        Field::unknown(name, 4)
    } else {
        Field::known(name, &[0; 4])
    }
}
