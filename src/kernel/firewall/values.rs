//! What is known of bytes that a rule looks at, and whether a comparison of them holds. No I/O.
//!
//! A packet that is followed stands for many: its source is somewhere in a block, its port is any.
//! So a value is a set of values, and a comparison may hold for all of them, for none, or for some.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    Always,
    Never,
    Maybe,
}

impl Truth {
    pub fn is(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }

    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::Always, Self::Always) => Self::Always,
            _ => Self::Maybe,
        }
    }

    pub fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// The opposite where it is inverted.
    pub fn inverted(self, inverted: bool) -> Self {
        if inverted { self.not() } else { self }
    }

    fn not(self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::Maybe => Self::Maybe,
        }
    }
}

/// Bytes of a packet or about it, and what is known of them.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in the language of nft, such as "ip saddr".
    pub name: &'static str,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    /// The bits that are known, and those of them that are set.
    Bits {
        known: Vec<u8>,
        set: Vec<u8>,
    },
    Numbers(Numbers),
}

/// One of many numbers, each as likely as another.
#[derive(Clone, Debug)]
struct Numbers {
    /// First and last, in order and apart.
    ranges: Vec<(u32, u32)>,
    /// Bytes of the number, and how many of them, from the first on, are looked at.
    width: usize,
    seen: usize,
    /// How many of its last bits are masked.
    masked: u32,
    /// So many of them count as none, and all but so many as all.
    few: u64,
}

impl Field {
    /// Of which nothing is known.
    pub fn unknown(name: &'static str, len: usize) -> Self {
        Self::bits(name, vec![0; len], vec![0; len])
    }

    pub fn known(name: &'static str, value: &[u8]) -> Self {
        Self::bits(name, vec![0xff; value.len()], value.to_vec())
    }

    /// With the bits that are known, and those of them that are set.
    pub fn bits(name: &'static str, known: Vec<u8>, set: Vec<u8>) -> Self {
        let values = Values::Bits { known, set };
        Self { name, values }
    }

    /// An address of the block. Less than the smallest subnet of a VPC, 16 addresses, is few.
    pub fn address_in(name: &'static str, block: Ipv4Net, typical: bool) -> Self {
        let range = (block.network().to_bits(), block.broadcast().to_bits());
        let mut field = Self::numbers(name, 4, vec![range], typical);
        if let Values::Numbers(numbers) = &mut field.values {
            numbers.few = numbers.few.min(15);
        }
        field
    }

    /// An address of the Internet: neither private nor of the kernel's own use (RFC 6890).
    pub fn public_address(name: &'static str, typical: bool) -> Self {
        const RANGES: [([u8; 4], [u8; 4]); 8] = [
            ([1, 0, 0, 0], [9, 255, 255, 255]),
            ([11, 0, 0, 0], [100, 63, 255, 255]),
            ([100, 128, 0, 0], [126, 255, 255, 255]),
            ([128, 0, 0, 0], [169, 253, 255, 255]),
            ([169, 255, 0, 0], [172, 15, 255, 255]),
            ([172, 32, 0, 0], [192, 167, 255, 255]),
            ([192, 169, 0, 0], [198, 17, 255, 255]),
            ([198, 20, 0, 0], [223, 255, 255, 255]),
        ];
        let bits = |address: [u8; 4]| Ipv4Addr::from(address).to_bits();
        let ranges = RANGES.map(|(first, last)| (bits(first), bits(last)));
        Self::numbers(name, 4, ranges.into(), typical)
    }

    pub fn port(name: &'static str, typical: bool) -> Self {
        Self::numbers(name, 2, vec![(1, 0xffff)], typical)
    }

    /// A sixteenth of them is few: what is typical is not among those that a rule picks out.
    fn numbers(name: &'static str, width: usize, ranges: Vec<(u32, u32)>, typical: bool) -> Self {
        let mut numbers = Numbers {
            ranges,
            width,
            seen: width,
            masked: 0,
            few: 0,
        };
        if typical {
            numbers.few = numbers.covered(0, u64::from(u32::MAX)) / 16;
        }
        let values = Values::Numbers(numbers);
        Self { name, values }
    }

    pub fn len(&self) -> usize {
        match &self.values {
            Values::Bits { known, .. } => known.len(),
            Values::Numbers(numbers) => numbers.seen,
        }
    }

    /// Some of its bytes; it has so many.
    pub fn part(&self, from: usize, len: usize) -> Self {
        let name = self.name;
        match &self.values {
            Values::Bits { known, set } => Self::bits(
                name,
                known[from..from + len].to_vec(),
                set[from..from + len].to_vec(),
            ),
            Values::Numbers(numbers) if from == 0 => {
                let seen = len;
                let values = Values::Numbers(Numbers {
                    seen,
                    ..numbers.clone()
                });
                Self { name, values }
            }
            Values::Numbers(_) => Self::unknown(name, len),
        }
    }

    /// `(value & mask) ^ flipped`, each of its length.
    pub fn masked(&self, mask: &[u8], flipped: &[u8]) -> Self {
        let name = self.name;
        match &self.values {
            Values::Bits { known, set } => {
                let zip = |a: &[u8], b: &[u8], f: fn(u8, u8) -> u8| -> Vec<u8> {
                    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
                };
                let known = zip(known, mask, |known, mask| known | !mask);
                let set = zip(set, mask, |set, mask| set & mask);
                let set = zip(&set, flipped, |set, flipped| set ^ flipped);
                let set = zip(&set, &known, |set, known| set & known);
                Self::bits(name, known, set)
            }
            Values::Numbers(numbers) => {
                let ones = padded(mask, 0, numbers.width).leading_ones();
                let ones = ones.min(u32::try_from(8 * mask.len()).unwrap_or(0));
                let total: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
                if ones != total || flipped.iter().any(|bits| *bits != 0) {
                    return Self::unknown(name, self.len());
                }
                let bits = u32::try_from(8 * numbers.width).unwrap_or(32);
                let masked = numbers.masked.max(bits - ones);
                let values = Values::Numbers(Numbers {
                    masked,
                    ..numbers.clone()
                });
                Self { name, values }
            }
        }
    }

    /// With each `size` of its bytes in the opposite order.
    pub fn swapped(&self, size: usize) -> Self {
        let swap = |bytes: &[u8]| -> Vec<u8> {
            let chunks = bytes.chunks(size.max(1));
            chunks
                .flat_map(|chunk| chunk.iter().rev().copied())
                .collect()
        };
        match &self.values {
            Values::Bits { known, set } => Self::bits(self.name, swap(known), swap(set)),
            Values::Numbers(_) => Self::unknown(self.name, self.len()),
        }
    }

    /// Whether it is from one value to another, of its own length.
    pub fn is(&self, from: &[u8], to: &[u8]) -> Truth {
        self.within([(from, to)].into_iter())
    }

    /// Whether it is in one of the intervals, which have their first and last value in as many
    /// bytes as it has.
    pub fn within<'a>(&self, intervals: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Truth {
        match &self.values {
            Values::Numbers(numbers) => numbers.within(intervals),
            Values::Bits { known, set } => intervals
                .map(|(from, to)| bits_within(known, set, from, to))
                .fold(Truth::Never, Truth::or),
        }
    }
}

impl Numbers {
    /// How many of them are from `first` to `last`.
    fn covered(&self, first: u64, last: u64) -> u64 {
        let ranges = self.ranges.iter();
        let overlaps = ranges.map(|(from, to)| {
            let (from, to) = (first.max(u64::from(*from)), last.min(u64::from(*to)));
            (to + 1).saturating_sub(from)
        });
        overlaps.sum()
    }

    fn within<'a>(&self, intervals: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Truth {
        let intervals = intervals.map(|(from, to)| self.unmasked(from, to));
        let mut intervals: Vec<_> = intervals
            .filter(|(first, last)| self.covered(*first, *last) > 0)
            .collect();
        intervals.sort_unstable();
        // Some may overlap.
        let (mut covered, mut next) = (0, 0);
        for (first, last) in intervals {
            covered += self.covered(first.max(next), last);
            next = next.max(last + 1);
        }
        self.truth(covered)
    }

    /// First and last number that are in an interval once they are masked, by the bytes that are
    /// seen.
    fn unmasked(&self, from: &[u8], to: &[u8]) -> (u64, u64) {
        let tail = (1_u64 << self.masked) - 1;
        let value = |bytes: &[u8], filler: u8| {
            u64::from(padded(bytes, filler, self.width) >> (8 * (4 - self.width)))
        };
        let first = (value(from, 0) + tail) & !tail;
        (first, value(to, 0xff) | tail)
    }

    fn truth(&self, covered: u64) -> Truth {
        let rest = self.covered(0, u64::from(u32::MAX)).saturating_sub(covered);
        if covered <= self.few {
            Truth::Never
        } else if rest <= self.few {
            Truth::Always
        } else {
            Truth::Maybe
        }
    }
}

/// The bytes as the first ones of so many, and zeros up to four.
fn padded(bytes: &[u8], filler: u8, width: usize) -> u32 {
    let mut four = [0; 4];
    four[..width].fill(filler);
    for (to, from) in four[..width].iter_mut().zip(bytes) {
        *to = *from;
    }
    u32::from_be_bytes(four)
}

fn bits_within(known: &[u8], set: &[u8], from: &[u8], to: &[u8]) -> Truth {
    if known.iter().all(|bits| *bits == 0xff) {
        return Truth::is(from <= set && set <= to);
    }
    // As small and as large as it may be.
    let largest: Vec<u8> = known
        .iter()
        .zip(set)
        .map(|(known, set)| set | !known)
        .collect();
    let differs = |value: &[u8]| {
        let bits = known.iter().zip(set).zip(value);
        bits.into_iter()
            .any(|((known, set), value)| value & known != *set)
    };
    if largest.as_slice() < from || set > to || (from == to && differs(from)) {
        Truth::Never
    } else if from <= set && largest.as_slice() <= to {
        Truth::Always
    } else {
        Truth::Maybe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_block() {
        let block = "10.0.0.0/16".parse().unwrap();
        let typical = Field::address_in("ip saddr", block, true);
        let any = Field::address_in("ip saddr", block, false);
        for (from, to, expected) in [
            ([10, 0, 0, 0], [10, 0, 255, 255], [Truth::Always; 2]),
            ([10, 0, 0, 0], [10, 255, 255, 255], [Truth::Always; 2]),
            ([10, 1, 0, 0], [10, 1, 255, 255], [Truth::Never; 2]),
            ([10, 0, 0, 0], [10, 0, 127, 255], [Truth::Maybe; 2]),
            // The smallest subnet, and less than one.
            ([10, 0, 0, 0], [10, 0, 0, 15], [Truth::Maybe; 2]),
            ([10, 0, 0, 7], [10, 0, 0, 7], [Truth::Never, Truth::Maybe]),
            (
                [10, 0, 0, 1],
                [10, 0, 255, 255],
                [Truth::Always, Truth::Maybe],
            ),
        ] {
            let found = [&typical, &any].map(|field| field.is(&from, &to));
            assert_eq!(found, expected, "{from:?} to {to:?}");
        }
        // As iptables compares blocks of whole bytes, and nft those of others.
        assert_eq!(any.part(0, 2).is(&[10, 0], &[10, 0]), Truth::Always);
        assert_eq!(any.part(0, 2).is(&[10, 1], &[10, 1]), Truth::Never);
        let masked = any.masked(&[255, 240, 0, 0], &[0; 4]);
        assert_eq!(masked.is(&[10, 0, 0, 0], &[10, 0, 0, 0]), Truth::Always);
        assert_eq!(masked.is(&[10, 16, 0, 0], &[10, 16, 0, 0]), Truth::Never);
        // No address masked so is 10.0.0.1.
        assert_eq!(masked.is(&[10, 0, 0, 1], &[10, 0, 0, 1]), Truth::Never);
        let halves: [(&[u8], &[u8]); 2] = [
            (&[10, 0, 0, 0], &[10, 0, 127, 255]),
            (&[10, 0, 128, 0], &[10, 0, 255, 255]),
        ];
        assert_eq!(any.within(halves.into_iter()), Truth::Always);
    }

    #[test]
    fn addresses_of_the_internet() {
        let typical = Field::public_address("ip daddr", true);
        let any = Field::public_address("ip daddr", false);
        let both = |from: [u8; 4], to: [u8; 4]| [&typical, &any].map(|f| f.is(&from, &to));
        assert_eq!(both([10, 0, 0, 0], [10, 255, 255, 255]), [Truth::Never; 2]);
        assert_eq!(both([0; 4], [255; 4]), [Truth::Always; 2]);
        assert_eq!(both([8; 4], [8; 4]), [Truth::Never, Truth::Maybe]);
        assert_eq!(both([0; 4], [127, 255, 255, 255]), [Truth::Maybe; 2]);
    }

    #[test]
    fn ports() {
        let typical = Field::port("tcp dport", true);
        let port = |from: u16, to: u16| typical.is(&from.to_be_bytes(), &to.to_be_bytes());
        assert_eq!(port(25, 25), Truth::Never);
        assert_eq!(port(1024, 65535), Truth::Always);
        assert_eq!(port(0, 32767), Truth::Maybe);
    }

    #[test]
    fn bits() {
        let state = Field::known("ct state", &[8, 0, 0, 0]);
        let masked = state.masked(&[6, 0, 0, 0], &[0; 4]);
        assert_eq!(masked.is(&[0; 4], &[0; 4]), Truth::Always);
        // The second bit is known to be set, the first one not.
        let status = Field::bits("ct status", vec![2, 0], vec![2, 0]);
        assert_eq!(status.is(&[1, 0], &[1, 0]), Truth::Never);
        assert_eq!(status.is(&[3, 0], &[3, 0]), Truth::Maybe);
        assert_eq!(status.is(&[2, 0], &[255, 255]), Truth::Always);
        let masked = status.masked(&[2, 0], &[0; 2]);
        assert_eq!(masked.is(&[0; 2], &[0; 2]), Truth::Never);
        let swapped = Field::known("meta mark", &[1, 2, 3, 4]).swapped(4);
        assert_eq!(swapped.is(&[4, 3, 2, 1], &[4, 3, 2, 1]), Truth::Always);
    }
}
