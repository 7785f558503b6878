//! AWS identifiers as types of their own: parsed at the boundary, so that a route table's ID
//! cannot be passed where an interface's belongs and nothing unparsed goes any further.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Text that is not what it was taken for. Displays what was expected and the offending text,
/// quoted and shortened, so that a garbled answer cannot garble the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    expected: &'static str,
    text: String,
}

impl Malformed {
    /// The offending text is kept to its first 80 characters.
    pub fn new(expected: &'static str, text: &str) -> Self {
        let text = text.chars().take(80).collect();
        Self { expected, text }
    }
}

/// A text of somebody else's as it may stand in a message: quoted unless it is one plain word, and
/// kept to its first 80 characters.
pub fn shown(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    let short: String = text.chars().take(80).collect();
    if !short.is_empty() && short.chars().all(plain) {
        short
    } else {
        format!("{short:?}")
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got {:?}", self.expected, self.text)
    }
}

impl std::error::Error for Malformed {}

/// A resource ID: its prefix, then 8 (until 2016) or 17 lower-case hexadecimal digits.
/// Source: EC2 user guide, "Resource IDs".
fn is_resource_id(prefix: &str, text: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        matches!(digits.len(), 8 | 17)
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

macro_rules! resource_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(String);

        impl $name {
            /// The ID as AWS writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                if is_resource_id($prefix, text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Malformed::new($expected, text))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

resource_id!(
    /// An EC2 instance.
    InstanceId, "i-", "an instance ID (i-…)"
);
resource_id!(
    /// A network interface.
    InterfaceId, "eni-", "a network interface ID (eni-…)"
);
resource_id!(
    /// A NAT gateway.
    NatGatewayId, "nat-", "a NAT gateway's ID (nat-…)"
);

resource_id!(
    /// A route table.
    TableId, "rtb-", "a route table ID (rtb-…)"
);
resource_id!(
    /// A subnet.
    SubnetId, "subnet-", "a subnet ID (subnet-…)"
);
resource_id!(
    /// A VPC.
    VpcId, "vpc-", "a VPC ID (vpc-…)"
);

/// A region such as `eu-central-1` or `us-gov-west-1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region(String);

impl Region {
    /// The region's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = Malformed;

    /// Lower-case words and a number, joined by hyphens. The region becomes part of host names,
    /// so anything else is refused.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parts: Vec<&str> = text.split('-').collect();
        let word = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase());
        let number = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        match parts.split_last() {
            Some((last, words)) if words.len() >= 2 && words.iter().all(word) && number(last) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(Malformed::new("a region such as eu-central-1", text)),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An availability zone (`eu-central-1a`), local zone (`us-west-2-lax-1a`) or Wavelength zone
/// (`us-east-1-wl1-bos-wlz-1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Zone(String);

impl Zone {
    /// The zone's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_region = text.parse::<Region>().is_ok();
        if text.contains('-') && text.bytes().all(allowed) && !is_region {
            Ok(Self(text.to_owned()))
        } else {
            Err(Malformed::new(
                "an availability zone such as eu-central-1a",
                text,
            ))
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A MAC address; displayed as IMDS spells it in paths, lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address as it is in a packet.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::new("a MAC address such as 02:29:96:8f:6a:2d", text);
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.0.map(|octet| format!("{octet:02x}"));
        f.write_str(&octets.join(":"))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resource_ids_are_checked_whole() {
        assert!("rtb-0123456789abcdef0".parse::<TableId>().is_ok());
        assert!("rtb-01234567".parse::<TableId>().is_ok());
        for bad in [
            "",
            "rtb-",
            "eni-0123456789abcdef0",
            "rtb-0123456789ABCDEF0",
            "rtb-0123456789abcdef0\n",
            "rtb-0123456789abcdef00",
        ] {
            assert!(bad.parse::<TableId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn regions_and_zones() {
        for good in ["eu-central-1", "us-gov-west-1", "ap-southeast-10"] {
            assert!(good.parse::<Region>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "eu",
            "eu-1",
            "eu-central-1a",
            "eu-central-1.evil.example",
            "EU-west-1",
        ] {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
        for good in [
            "eu-central-1a",
            "us-west-2-lax-1a",
            "us-east-1-wl1-bos-wlz-1",
        ] {
            assert!(good.parse::<Zone>().is_ok(), "{good}");
        }
        for bad in ["", "any", "eu-central-1", "eu-central-1a\n", "<html>"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_garbled_text_is_quoted_and_cut() {
        let error = "x\n".repeat(500).parse::<VpcId>().unwrap_err().to_string();
        assert!(!error.contains('\n'));
        assert!(error.len() < 250, "{error}");
    }

    proptest! {
        #[test]
        fn a_mac_reads_back_as_written(octets: [u8; 6]) {
            let mac = Mac(octets);
            prop_assert_eq!(mac.to_string().parse::<Mac>(), Ok(mac));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Mac>();
            let _ = text.parse::<Region>();
            let _ = text.parse::<Zone>();
            let _ = text.parse::<InstanceId>();
        }
    }
}
