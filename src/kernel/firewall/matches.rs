//! Matches of iptables, by the structures of their own that nftables carries for them. No I/O.
//!
//! Offsets are those of `linux/netfilter/xt_*.h` and `linux/netfilter_ipv4/ipt_icmp.h`; numbers are
//! in the machine's order unless said otherwise. An IPv4 address takes 16 bytes there, too
//! (`union nf_inet_addr`).

use netlink_bindings::nftables::PayloadBase;

use super::packet::{Followed, Protocol, UNICAST};
use super::values::{Field, Truth};

/// Whether the packet matches; none where that is not understood.
pub fn holds(packet: &Followed<'_>, name: &str, revision: u32, info: &[u8]) -> Option<Truth> {
    let info = Info(info);
    match (name, revision) {
        ("comment", _) => Some(Truth::Always),
        ("conntrack", 1..=3) => conntrack(packet, info, revision),
        // struct xt_state_info
        ("state", 0) => Some(Truth::is(states(packet) & info.u32(0)? != 0)),
        // struct xt_mark_mtinfo1, xt_connmark_mtinfo1
        ("mark", 1) => mark(&packet.mark(), info),
        ("connmark", 1) => mark(&packet.connection_mark(), info),
        ("tcp", 0) => tcp(packet, info),
        ("udp", 0) => {
            let inverted = info.u8(8)?;
            if packet.protocol == Protocol::Udp {
                ports(packet, info, inverted)
            } else {
                Some(Truth::Never)
            }
        }
        ("icmp", 0) => icmp(packet, info),
        ("multiport", 1) => multiport(packet, info),
        ("addrtype", 1) => addrtype(info),
        ("iprange", 1) => iprange(packet, info),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Info<'a>(&'a [u8]);

impl Info<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.bytes(at)?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes(at)?))
    }
}

/// The bit of its connection's state as these matches number them, and the one that says that its
/// source is translated (`XT_CONNTRACK_STATE_BIT`, `XT_CONNTRACK_STATE_SNAT`).
fn states(packet: &Followed<'_>) -> u32 {
    const TRANSLATED: u32 = 1 << 6;
    let (_, status) = packet.status();
    let translated = if status == 0 { 0 } else { TRANSLATED };
    packet.state() | translated
}

/// struct `xt_conntrack_mtinfo1` to `3`: what is asked of and what is inverted, then the states and
/// the bits of the status.
fn conntrack(packet: &Followed<'_>, info: Info<'_>, revision: u32) -> Option<Truth> {
    const STATE: u16 = 1;
    const STATUS: u16 = 1 << 6;
    /// How it was written.
    const ALIAS: u16 = 1 << 13;
    let (asked, inverted) = (info.u16(146)?, info.u16(148)?);
    let (states_asked, status_bits) = match revision {
        1 => (u16::from(info.u8(150)?), u16::from(info.u8(151)?)),
        _ => (info.u16(150)?, info.u16(152)?),
    };
    if asked & !(STATE | STATUS | ALIAS) != 0 {
        return None;
    }
    let mut truth = Truth::Always;
    if asked & STATE != 0 {
        let has = states(packet) & u32::from(states_asked) != 0;
        truth = truth.and(Truth::is(has).inverted(inverted & STATE != 0));
    }
    if asked & STATUS != 0 {
        let (known, set) = packet.status();
        let bits = u32::from(status_bits);
        let has = if set & bits != 0 {
            Truth::Always
        } else if bits & !known == 0 {
            Truth::Never
        } else {
            Truth::Maybe
        };
        truth = truth.and(has.inverted(inverted & STATUS != 0));
    }
    Some(truth)
}

/// Mark, mask, and whether it is inverted.
fn mark(field: &Field, info: Info<'_>) -> Option<Truth> {
    let (value, mask): ([u8; 4], [u8; 4]) = (info.bytes(0)?, info.bytes(4)?);
    let masked = field.masked(&mask, &[0; 4]);
    let same = masked.is(&value, &value);
    Some(same.inverted(info.u8(8)? != 0))
}

/// struct `xt_tcp`: first and last source port, the same of the destination, an option's number,
/// which flags are looked at and which of them are to be set, and what is inverted.
fn tcp(packet: &Followed<'_>, info: Info<'_>) -> Option<Truth> {
    const INVERTED_FLAGS: u8 = 4;
    if packet.protocol != Protocol::Tcp {
        return Some(Truth::Never);
    }
    let (option, mask, flags) = (info.u8(8)?, info.u8(9)?, info.u8(10)?);
    let inverted = info.u8(11)?;
    if option != 0 {
        return None;
    }
    let field = transport(packet, 13, 1)?.masked(&[mask], &[0]);
    let same = field.is(&[flags], &[flags]);
    let same = same.inverted(inverted & INVERTED_FLAGS != 0);
    Some(same.and(ports(packet, info, inverted)?))
}

/// First and last source port, and the same of the destination.
fn ports(packet: &Followed<'_>, info: Info<'_>, inverted: u8) -> Option<Truth> {
    let mut truth = Truth::Always;
    for (offset, at, bit) in [(0, 0, 1), (2, 4, 2)] {
        let (first, last) = (info.u16(at)?, info.u16(at + 2)?);
        let found = port(packet, offset, &[(first, last)])?;
        truth = truth.and(found.inverted(inverted & bit != 0));
    }
    Some(truth)
}

fn port(packet: &Followed<'_>, offset: u32, ranges: &[(u16, u16)]) -> Option<Truth> {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(first, last)| (first.to_be_bytes(), last.to_be_bytes()))
        .collect();
    let ranges = ranges.iter().map(|(first, last)| (&first[..], &last[..]));
    Some(transport(packet, offset, 2)?.within(ranges))
}

/// A field that the packet's header has as a whole.
fn transport(packet: &Followed<'_>, offset: u32, len: u32) -> Option<Field> {
    one(packet.payload(PayloadBase::TransportHeader as u32, offset, len))
}

fn network(packet: &Followed<'_>, offset: u32, len: u32) -> Option<Field> {
    one(packet.payload(PayloadBase::NetworkHeader as u32, offset, len))
}

fn one(mut fields: Vec<Field>) -> Option<Field> {
    let field = fields.pop();
    field.filter(|_| fields.is_empty())
}

/// struct `ipt_icmp`: type, first and last code, whether it is inverted. Type 255 is any.
fn icmp(packet: &Followed<'_>, info: Info<'_>) -> Option<Truth> {
    let [kind, first, last, inverted]: [u8; 4] = info.bytes(0)?;
    if packet.protocol != Protocol::Icmp {
        return Some(Truth::Never);
    }
    let within =
        |offset, first: u8, last: u8| Some(transport(packet, offset, 1)?.is(&[first], &[last]));
    let same = if kind == 0xff {
        Truth::Always
    } else {
        within(0, kind, kind)?.and(within(1, first, last)?)
    };
    Some(same.inverted(inverted & 1 != 0))
}

/// struct `xt_multiport_v1`: which ports, how many, the ports, which of them begin a range that the
/// next one ends, and whether it is inverted.
fn multiport(packet: &Followed<'_>, info: Info<'_>) -> Option<Truth> {
    const MOST: usize = 15;
    let (which, count) = (info.u8(0)?, usize::from(info.u8(1)?).min(MOST));
    if packet.protocol == Protocol::Icmp {
        return Some(Truth::Never);
    }
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < count {
        let first = info.u16(2 + 2 * at)?;
        let begins = info.u8(32 + at)? != 0 && at + 1 < count;
        at += usize::from(begins);
        ranges.push((first, info.u16(2 + 2 * at)?));
        at += 1;
    }
    let found = match which {
        0 => port(packet, 0, &ranges)?,
        1 => port(packet, 2, &ranges)?,
        _ => port(packet, 0, &ranges)?.or(port(packet, 2, &ranges)?),
    };
    Some(found.inverted(info.u8(47)? != 0))
}

/// struct `xt_addrtype_info_v1`: types of the source and of the destination, each its bit, and
/// flags, of which two invert.
fn addrtype(info: Info<'_>) -> Option<Truth> {
    let (source, destination, flags) = (info.u16(0)?, info.u16(2)?, info.u32(4)?);
    let holds = |types: u16, inverts: u32| {
        let is = types == 0 || types & (1 << UNICAST) != 0;
        Truth::is(is).inverted(types != 0 && flags & inverts != 0)
    };
    Some(holds(source, 1).and(holds(destination, 2)))
}

/// struct `xt_iprange_mtinfo`: first and last source, first and last destination, and flags.
fn iprange(packet: &Followed<'_>, info: Info<'_>) -> Option<Truth> {
    let flags = info.u8(64)?;
    let mut truth = Truth::Always;
    for (offset, at, asked, inverted) in [(12, 0, 1, 16), (16, 32, 2, 32)] {
        if flags & asked == 0 {
            continue;
        }
        let (first, last): ([u8; 4], [u8; 4]) = (info.bytes(at)?, info.bytes(at + 16)?);
        let address = network(packet, offset, 4)?;
        let found = address.is(&first, &last);
        truth = truth.and(found.inverted(flags & inverted != 0));
    }
    Some(truth)
}
