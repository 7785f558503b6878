//! Does a host answer? ICMP echo (RFC 792) over a raw socket, which takes `CAP_NET_RAW`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket as StdSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How often a host is asked before its silence counts, and how long it has for each answer:
/// within a VPC they take about a millisecond, and one may be lost.
const ATTEMPTS: u16 = 3;
const PATIENCE: Duration = Duration::from_millis(300);

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// Whether the host answers. Fails where no such socket is to be had.
pub async fn answers(host: Ipv4Addr) -> Result<bool> {
    let doing = || format!("pinging {host}");
    let socket =
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).with_context(doing)?;
    // Connected, so that only what the host itself says comes in. Where no way leads to it, it does
    // not answer either.
    if socket.connect(&SocketAddrV4::new(host, 0).into()).is_err() {
        return Ok(false);
    }
    let socket = for_tokio(socket).with_context(doing)?;
    // Which of this host's processes asks.
    let [.., high, low] = std::process::id().to_be_bytes();
    let id = u16::from_be_bytes([high, low]);
    for sequence in 0..ATTEMPTS {
        // What cannot be sent is not answered.
        if socket.send(&request(id, sequence)).await.is_ok()
            && timeout(PATIENCE, answer(&socket, id)).await.is_ok()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What tokio calls a UDP socket sends and receives datagrams of any protocol.
fn for_tokio(socket: Socket) -> Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(StdSocket::from(OwnedFd::from(socket)))?)
}

async fn answer(socket: &UdpSocket, id: u16) {
    let mut packet = [0; 128];
    loop {
        if let Ok(length) = socket.recv(&mut packet).await
            && is_answer(&packet[..length], id)
        {
            return;
        }
    }
}

/// With the IP header, as raw sockets see packets (raw(7)).
fn is_answer(packet: &[u8], id: u16) -> bool {
    let header = packet
        .first()
        .map_or(0, |first| usize::from(first & 0x0f) * 4);
    packet.get(header..).is_some_and(|icmp| {
        icmp.len() >= 8 && icmp[0] == ECHO_REPLY && icmp[4..6] == id.to_be_bytes()
    })
}

fn request(id: u16, sequence: u16) -> [u8; 8] {
    let ([i, d], [s, q]) = (id.to_be_bytes(), sequence.to_be_bytes());
    let mut packet = [ECHO_REQUEST, 0, 0, 0, i, d, s, q];
    let [high, low] = checksum(&packet).to_be_bytes();
    (packet[2], packet[3]) = (high, low);
    packet
}

/// RFC 1071, of an even number of bytes.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = sum.to_be_bytes();
    !u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_up_to_nothing() {
        for (id, sequence) in [(0, 0), (0xffff, 2), (0x1234, 0xfffe)] {
            assert_eq!(checksum(&request(id, sequence)), 0);
        }
        // RFC 1071's example, turned over.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    #[test]
    fn only_an_answer_to_us_counts() {
        let ip = |icmp: &[u8]| [&[0x45; 20][..], icmp].concat();
        let reply = [ECHO_REPLY, 0, 0, 0, 0x12, 0x34, 0, 0];
        assert!(is_answer(&ip(&reply), 0x1234));
        assert!(!is_answer(&ip(&reply), 0x1235));
        assert!(!is_answer(&ip(&[3, 0, 0, 0, 0x12, 0x34, 0, 0]), 0x1234));
        assert!(!is_answer(&ip(&reply[..7]), 0x1234));
        assert!(!is_answer(&[], 0x1234));
        assert!(!is_answer(&[0x4f], 0x1234));
    }
}
