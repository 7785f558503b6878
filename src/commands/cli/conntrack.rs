//! Flags of the kernel's connection table.

use clap::Args;

/// Sizes and times of the connection table. All are optional texts: templates pass on what was left
/// empty.
#[derive(Debug, Default, Args)]
pub struct ConntrackArgs {
    /// Most connections at a time [default: at least one per 4 KiB of memory]
    #[arg(long = "conntrack-max", env = "HANAT_CONNTRACK_MAX", value_name = "N")]
    pub max: Option<String>,

    /// Buckets of the hash table that connections are looked up in [default: at least as many as
    /// connections]
    #[arg(
        long = "conntrack-buckets",
        env = "HANAT_CONNTRACK_BUCKETS",
        value_name = "N"
    )]
    pub buckets: Option<String>,

    /// How long an established TCP connection may be silent before it is forgotten [default: at
    /// most 2h 4m]
    #[arg(
        long = "conntrack-established",
        env = "HANAT_CONNTRACK_ESTABLISHED",
        value_name = "TIME"
    )]
    pub established: Option<String>,

    /// The same for one that is closed at one end only [default: at least 4m]
    #[arg(
        long = "conntrack-close-wait",
        env = "HANAT_CONNTRACK_CLOSE_WAIT",
        value_name = "TIME"
    )]
    pub close_wait: Option<String>,

    /// The same for one that is being closed at one end [default: at least 4m]
    #[arg(
        long = "conntrack-fin-wait",
        env = "HANAT_CONNTRACK_FIN_WAIT",
        value_name = "TIME"
    )]
    pub fin_wait: Option<String>,

    /// The same for one that is being closed at the other end, too [default: at least 4m]
    #[arg(
        long = "conntrack-last-ack",
        env = "HANAT_CONNTRACK_LAST_ACK",
        value_name = "TIME"
    )]
    pub last_ack: Option<String>,

    /// The same for few datagrams between two ports, such as a question and its answer
    /// [default: at least 2m]
    #[arg(
        long = "conntrack-udp",
        env = "HANAT_CONNTRACK_UDP",
        value_name = "TIME"
    )]
    pub udp: Option<String>,

    /// The same for datagrams between two ports that go both ways for more than two seconds
    /// [default: at least 5m 50s]
    #[arg(
        long = "conntrack-udp-stream",
        env = "HANAT_CONNTRACK_UDP_STREAM",
        value_name = "TIME"
    )]
    pub udp_stream: Option<String>,

    /// The same for an ICMP query such as a ping [default: at least 1m]
    #[arg(
        long = "conntrack-icmp",
        env = "HANAT_CONNTRACK_ICMP",
        value_name = "TIME"
    )]
    pub icmp: Option<String>,
}
