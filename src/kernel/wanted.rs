//! How the user wants the kernel to be.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

/// What to do about the kernel.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// Make it a NAT.
    SetUp(KernelSetup),
    /// The image does; only check that it did.
    Foreign,
}

/// How the kernel is set up.
#[derive(Clone, Debug)]
pub struct KernelSetup {
    /// Whose packets are masqueraded; empty means everybody's.
    pub sources: Vec<Ipv4Net>,
    /// Sizes and times of the connection table.
    pub connection_table: ConnectionTable,
}

/// What the user wants of the connection table; the rest follows from the machine's memory and from
/// what is asked of NATs.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTable {
    /// Most connections.
    pub max: Option<u32>,
    /// Buckets of the hash table that they are looked up in.
    pub buckets: Option<u32>,
    /// In whole seconds.
    pub timeouts: BTreeMap<Timeout, u64>,
}

impl ConnectionTable {
    /// Whether the user wants nothing in particular.
    pub fn is_default(&self) -> bool {
        self.max.is_none() && self.buckets.is_none() && self.timeouts.is_empty()
    }
}

/// How long a connection may be silent before the kernel forgets it, by what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timeout {
    /// TCP, open at both ends.
    Established,
    /// TCP, closed by one end, which the other has heard.
    CloseWait,
    /// TCP, closed by one end.
    FinWait,
    /// TCP, closed by both ends.
    LastAck,
    /// UDP, few datagrams.
    Udp,
    /// UDP, datagrams both ways for more than two seconds.
    UdpStream,
    /// ICMP, a query.
    Icmp,
}
