//! Network interfaces, over netlink.

use anyhow::{Context, Result, anyhow, bail};
use hanat_core::ids::Mac;
use netlink_bindings::rt_link::{Ifinfomsg, IterableLinkAttrs, Request};
use netlink_bindings::utils::ErrorContext;
use netlink_socket2::NetlinkSocket;

/// An interface, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Such as "ens5".
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    address: Vec<u8>,
    /// The interface that this one is made on top of, such as a VLAN's.
    lower: Option<u32>,
    /// The bridge or bond that this one is a port of.
    pub upper: Option<u32>,
}

/// The interface with that MAC address. Its name is whatever the image calls it.
pub fn find(socket: &mut NetlinkSocket, mac: Mac) -> Result<Link> {
    choose(all(socket)?, mac)
}

/// All of them.
pub fn all(socket: &mut NetlinkSocket) -> Result<Vec<Link>> {
    let request = Request::new().op_getlink_dump(&Ifinfomsg::new());
    let context = "listing the network interfaces";
    let mut replies = socket.request(&request).context(context)?;
    let mut links = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply
            .map_err(|error| anyhow!("{}", error.as_io_error()))
            .context(context)?;
        let link = Link::new(&header, &attributes);
        let link = link.map_err(|error| anyhow!("the kernel's answer lacks something: {error}"));
        links.push(link.context(context)?);
    }
    Ok(links)
}

impl Link {
    fn new(header: &Ifinfomsg, attributes: &IterableLinkAttrs<'_>) -> Result<Self, ErrorContext> {
        let index = |index: u32| (index != 0).then_some(index);
        // Else it is a number in another network namespace.
        let lower_is_here = attributes.get_link_netnsid().is_err();
        Ok(Self {
            index: header.ifi_index.unsigned_abs(),
            name: attributes.get_ifname()?.to_string_lossy().into_owned(),
            mtu: attributes.get_mtu()?,
            // Tunnels may have none.
            address: attributes.get_address().unwrap_or_default().to_vec(),
            lower: attributes
                .get_link()
                .ok()
                .filter(|_| lower_is_here)
                .and_then(index),
            upper: attributes.get_master().ok().and_then(index),
        })
    }
}

/// VLANs and the like have the address of the interface below, bridges and bonds that of their
/// port. Packets leave by the bridge, or else by what is not on top of another one.
fn choose(links: Vec<Link>, mac: Mac) -> Result<Link> {
    let mut found = links;
    found.retain(|link| link.address == mac.octets());
    let all: Vec<u32> = found.iter().map(|link| link.index).collect();
    let is_found = |index: Option<u32>| index.is_some_and(|index| all.contains(&index));
    let names: Vec<&str> = found.iter().map(|link| link.name.as_str()).collect();
    let names = names.join(", ");
    found.retain(|link| !is_found(link.upper) && !is_found(link.lower));
    match (found.pop(), found.is_empty()) {
        (Some(link), true) => Ok(link),
        (None, _) if all.is_empty() => {
            bail!("no network interface has {mac}, the MAC address that IMDS names")
        }
        _ => bail!("{names} all have {mac}, the MAC address that IMDS names"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn link(index: u32, address: [u8; 6], lower: Option<u32>, upper: Option<u32>) -> Link {
        Link {
            index,
            name: format!("if{index}"),
            mtu: 1500,
            address: address.to_vec(),
            lower,
            upper,
        }
    }

    fn chosen(links: &[Link]) -> Result<u32> {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        choose(links.to_vec(), mac).map(|link| link.index)
    }

    #[test]
    fn the_whole_address_counts() {
        let other = link(1, [2, 0, 0, 0, 0, 2], None, None);
        assert_eq!(
            chosen(&[other.clone(), link(2, MAC, None, None)]).unwrap(),
            2
        );
        let error = chosen(&[other]).unwrap_err().to_string();
        assert!(error.contains("02:00:00:00:00:01"), "{error}");
    }

    #[test]
    fn a_vlan_has_the_address_of_what_is_below() {
        let links = [link(2, MAC, None, None), link(3, MAC, Some(2), None)];
        assert_eq!(chosen(&links).unwrap(), 2);
    }

    #[test]
    fn a_bridge_stands_for_its_port() {
        let links = [link(2, MAC, None, Some(3)), link(3, MAC, None, None)];
        assert_eq!(chosen(&links).unwrap(), 3);
    }

    #[test]
    fn twins_are_named() {
        let links = [link(2, MAC, None, None), link(3, MAC, None, None)];
        let error = chosen(&links).unwrap_err().to_string();
        assert!(error.starts_with("if2, if3 all have"), "{error}");
    }
}
