//! Makes the kernel forward and masquerade, over netlink and /proc/sys and with no program's
//! help: looks, changes only what is not as it has to be, and looks again.

mod answers;
mod conntrack;
mod expressions;
mod firewall;
mod link;
mod nftables;
mod own_table;
mod routing;
mod ruleset;
mod sets;
mod sysctl;
mod wanted;

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hanat_core::ids::Mac;
use hanat_core::routes::answers::Elsewhere;
use ipnet::Ipv4Net;
use netlink_socket2::NetlinkSocket;
use serde::Serialize;

use conntrack::{Forgotten, Translated};
use firewall::{Judgement, Masker, Packet, Rules};
use own_table::Nat;
use ruleset::{Ruleset, Table};
use sysctl::Write;

pub use wanted::{ConnectionTable, Kernel, KernelSetup, Timeout};

/// What an internet gateway lets through, in bytes, while interfaces in a VPC take 9001. Source:
/// EC2 user guide, "Network maximum transmission unit (MTU) for your EC2 instance".
const IPV4_MTU: u32 = 1500;

/// How often it looks, at most. More than twice only where somebody else is at work at the same
/// moment, as services are while a machine boots: firewalld drops everything while it reloads, and
/// Docker sets its policy before a user's rule is there.
const LOOKS: usize = 10;

/// Between two such looks.
const WAIT: Duration = Duration::from_millis(300);

/// Of the MTU, what is no part of a TCP segment: IPv4's header and TCP's, 20 bytes each (RFC
/// 6691).
const HEADERS: u32 = 40;

/// What was found and done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Prepared {
    /// By which packets come in and go out.
    pub interface: String,
    /// What was changed or, in a dry run, would be.
    pub changes: Vec<String>,
    /// Chains of others that masquerade.
    pub masquerading_elsewhere: Vec<String>,
    /// What deserves a look.
    pub warnings: Vec<String>,
    /// Clients in the VPC whom answers would not reach.
    pub answers_elsewhere: Vec<Elsewhere>,
    /// Why this is no NAT all the same: rules of others drop what it would forward.
    #[serde(skip)]
    pub obstacle: Option<String>,
}

impl Prepared {
    /// An error where something stands in the way, although all that is one's own is there.
    pub fn ready(self) -> Result<Self> {
        match self.obstacle {
            Some(obstacle) => bail!(obstacle),
            None => Ok(self),
        }
    }
}

/// Makes this machine a NAT or, where that is not asked for, checks that it is one.
///
/// `mac` is of the interface that routes point at, `addresses` are all of this instance's own, `vpc`
/// are all of the VPC's blocks. Rules of others that drop everything are no error here but an
/// obstacle, for which `ready` asks: what is one's own is in its place even so.
///
/// A dry run changes nothing. Blocks for some milliseconds, where others drop for three seconds.
pub fn prepare(
    kernel: &Kernel,
    mac: Mac,
    addresses: &[Ipv4Addr],
    vpc: &[Ipv4Net],
    dry_run: bool,
) -> Result<Prepared> {
    let mut socket = NetlinkSocket::new();
    let link = link::find(&mut socket, mac)?;
    let packet = Packet {
        interface: &link.name,
        index: link.index,
        sources: vpc,
    };
    let mut prepared = match kernel {
        Kernel::SetUp(wanted) => {
            let max_segment = link.mtu.min(IPV4_MTU).saturating_sub(HEADERS);
            let max_segment = u16::try_from(max_segment)?;
            let nat = Nat {
                interface: &link.name,
                addresses,
                vpc,
                sources: &wanted.sources,
                max_segment,
            };
            let translated = Translated {
                interface: link.index,
                own: addresses,
                vpc,
                sources: &wanted.sources,
            };
            set_up(
                &mut socket,
                &nat.table(),
                &translated,
                &packet,
                wanted,
                dry_run,
            )
        }
        Kernel::Foreign => check(&mut socket, &packet),
    }?;
    prepared.answers_elsewhere = answers::elsewhere(&mut socket, &link, vpc)?;
    Ok(prepared)
}

/// What is one's own comes first and waits for nobody; only the verdict hangs on others.
fn set_up(
    socket: &mut NetlinkSocket,
    table: &Table,
    translated: &Translated<'_>,
    packet: &Packet<'_>,
    wanted: &KernelSetup,
    dry_run: bool,
) -> Result<Prepared> {
    let (mut changes, mut warnings) = (Vec::new(), Vec::new());
    let memory = sysctl::memory()?;
    let mut look = 0;
    loop {
        look += 1;
        let ruleset = nftables::read(socket)?;
        let missing = Missing::find(&ruleset, table, packet.interface, wanted, memory)?;
        for change in missing.names() {
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
        let whole = dry_run || missing.is_empty();
        let last = look == LOOKS;
        if whole {
            let others = Rules::new(ruleset.foreign(), &ruleset.sets);
            let judgement = others.judge(packet);
            let obstacle = obstacle(&judgement, packet);
            if obstacle.is_none() || last {
                warnings.extend(missing.out_of_reach);
                warnings.extend(may_drop(judgement));
                warnings.extend(unseen_filter());
                return Ok(Prepared {
                    interface: packet.interface.to_owned(),
                    changes,
                    masquerading_elsewhere: names(others.maskers(packet)),
                    warnings,
                    answers_elsewhere: Vec::new(),
                    obstacle,
                });
            }
        } else if last {
            let missing = missing.names().join(", ");
            bail!("the kernel was set up again and again and still lacks: {missing}");
        } else {
            let forgotten = missing.make(socket, translated)?;
            changes.extend(forgotten.change());
            warnings.extend(forgotten.warning());
        }
        // What was made for the first time is there at once.
        if whole || look > 1 {
            sleep(WAIT);
        }
    }
}

/// What is not as it has to be.
#[derive(Default)]
struct Missing<'a> {
    /// And whether there is one to replace.
    table: Option<(&'a Table, bool)>,
    settings: Vec<Write>,
    /// Settings that nobody can change here.
    out_of_reach: Vec<String>,
}

impl<'a> Missing<'a> {
    fn find(
        ruleset: &Ruleset,
        table: &'a Table,
        interface: &str,
        wanted: &KernelSetup,
        memory: u64,
    ) -> Result<Self> {
        let plan = sysctl::plan(interface, &wanted.connection_table, memory, sysctl::read)?;
        let own = ruleset.own();
        Ok(Self {
            table: (own != Some(table)).then_some((table, own.is_some())),
            settings: plan.changes,
            out_of_reach: plan.out_of_reach,
        })
    }

    fn is_empty(&self) -> bool {
        self.table.is_none() && self.settings.is_empty()
    }

    fn names(&self) -> Vec<String> {
        let table = self.table.iter().map(|(table, replaced)| {
            let done = if *replaced { "replaced" } else { "created" };
            format!("nftables table {table} {done}")
        });
        let settings = self.settings.iter().map(ToString::to_string);
        table.chain(settings).collect()
    }

    /// The table first: with it come the modules, and with them the connection table's settings.
    /// What began before it is forgotten right after, whatever becomes of the settings: the next
    /// run finds the table there.
    fn make(&self, socket: &mut NetlinkSocket, translated: &Translated<'_>) -> Result<Forgotten> {
        let mut forgotten = Forgotten::Entries(0);
        if let Some((table, replaces)) = self.table {
            nftables::put(socket, table, replaces)?;
            forgotten = conntrack::forget(socket, translated)?;
        }
        self.settings.iter().try_for_each(Write::make)?;
        Ok(forgotten)
    }
}

/// Rules of others that make this a NAT that lets nothing through, and the mend.
fn obstacle(judgement: &Judgement, packet: &Packet<'_>) -> Option<String> {
    (!judgement.obstacles.is_empty()).then(|| {
        format!(
            "forwarded packets would be dropped: {}; let pass there what goes from {interface} to \
             {interface}",
            judgement.obstacles.join(", "),
            interface = packet.interface
        )
    })
}

/// What others may drop, and the mend where it is known.
fn may_drop(judgement: Judgement) -> impl Iterator<Item = String> {
    let answers = judgement.lost_answers.into_iter().map(|how| {
        format!(
            "answers to forwarded packets, or what follows them, would be dropped: {how}; let pass \
             there what belongs to known connections (ct state established,related accept)"
        )
    });
    let doubts = judgement.doubts.into_iter();
    answers.chain(doubts.map(|doubt| format!("forwarded packets may be dropped: {doubt}")))
}

/// Somebody else's set-up: is it one?
fn check(socket: &mut NetlinkSocket, packet: &Packet<'_>) -> Result<Prepared> {
    let interface = packet.interface;
    if !sysctl::forwards(interface, sysctl::read)? {
        bail!(
            "{interface} does not forward: net.ipv4.ip_forward and \
             net.ipv4.conf.{interface}.forwarding have to be 1 (--no-kernel sets nothing)"
        );
    }
    let ruleset = nftables::read(socket)?;
    let rules = Rules::new(ruleset.active(), &ruleset.sets);
    let masquerading = rules.maskers(packet);
    if masquerading.is_empty() {
        let unseen = match iptables_legacy_has("nat") {
            Ok(false) => String::new(),
            Ok(true) => "; iptables-legacy has a nat table, which cannot be read: use iptables-nft"
                .to_owned(),
            Err(error) => format!("; whether iptables-legacy does cannot be seen: {error:#}"),
        };
        bail!(
            "no nftables rule on the postrouting hook masquerades what leaves by {interface} \
             (--no-kernel adds none){unseen}"
        );
    }
    let uncertain = (!masquerading.iter().any(|masker| masker.certain)).then(|| {
        format!(
            "{} masquerades only some packets, or by conditions that are not understood here",
            masquerading[0].chain
        )
    });
    let mut judgement = rules.judge(packet);
    // Who brings a NAT of his own is told, and nothing more.
    judgement.doubts.splice(..0, judgement.obstacles.drain(..));
    let warnings = may_drop(judgement);
    Ok(Prepared {
        interface: interface.to_owned(),
        changes: Vec::new(),
        warnings: warnings.chain(uncertain).chain(unseen_filter()).collect(),
        masquerading_elsewhere: names(masquerading),
        answers_elsewhere: Vec::new(),
        obstacle: None,
    })
}

fn names(maskers: Vec<Masker>) -> Vec<String> {
    maskers.into_iter().map(|masker| masker.chain).collect()
}

fn unseen_filter() -> Option<String> {
    match iptables_legacy_has("filter") {
        Ok(false) => None,
        Ok(true) => Some(
            "iptables-legacy has a filter table; whether it drops forwarded packets cannot be seen"
                .to_owned(),
        ),
        Err(error) => Some(format!(
            "whether iptables-legacy has rules cannot be seen: {error:#}"
        )),
    }
}

/// Whether the old interface of iptables, which nftables does not show, has such a table.
fn iptables_legacy_has(table: &str) -> Result<bool> {
    const NAMES: &str = "/proc/net/ip_tables_names";
    match fs::read_to_string(NAMES) {
        Ok(names) => Ok(names.lines().any(|name| name == table)),
        // Nobody uses it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("reading {NAMES}")),
    }
}
