//! Sets and maps of nftables, as far as rules look things up in them. No I/O.

use super::ruleset::Verdict;

/// What a rule looks values up in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// In no order; none overlaps another.
    pub elements: Vec<Element>,
    /// What holds for all others, `*`; its values are not used.
    pub catchall: Option<Element>,
}

/// Values from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The first, in as many bytes as the key has.
    pub from: Vec<u8>,
    /// The last. Where the key has several fields, each has its own first and last value.
    pub to: Vec<u8>,
    /// In a map of verdicts.
    pub verdict: Option<Verdict>,
}

/// As the kernel lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub key: Vec<u8>,
    /// In sets of intervals of several fields.
    pub key_end: Option<Vec<u8>>,
    /// Begins what is *not* in the set.
    pub ends_interval: bool,
    pub verdict: Option<Verdict>,
}

impl Set {
    /// Where elements are intervals of one field, each is listed as its beginning, and as its end
    /// unless another begins there, or nothing comes after it.
    pub fn of(mut listed: Vec<Listed>, intervals: bool) -> Self {
        let several = listed.iter().any(|one| one.key_end.is_some());
        let mut elements = Vec::new();
        if intervals && !several {
            listed.sort_by(|a, b| (&a.key, !a.ends_interval).cmp(&(&b.key, !b.ends_interval)));
            for (number, one) in listed.iter().enumerate() {
                if one.ends_interval {
                    continue;
                }
                let next = listed.get(number + 1);
                let to = next.map_or_else(|| vec![0xff; one.key.len()], |next| before(&next.key));
                elements.push(Element {
                    from: one.key.clone(),
                    to,
                    verdict: one.verdict.clone(),
                });
            }
        } else {
            elements.extend(listed.into_iter().map(|one| Element {
                to: one.key_end.unwrap_or_else(|| one.key.clone()),
                from: one.key,
                verdict: one.verdict,
            }));
        }
        Self {
            elements,
            catchall: None,
        }
    }
}

/// The number before, most significant byte first.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let borrows = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrows {
            break;
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(key: &[u8], ends_interval: bool) -> Listed {
        Listed {
            key: key.to_vec(),
            key_end: None,
            ends_interval,
            verdict: None,
        }
    }

    #[test]
    fn intervals() {
        // As the kernel lists { 10.0.0.0/16, 10.1.0.0/16, 224.0.0.0/3 }: backwards, and from what
        // is before the first one.
        let set = Set::of(
            vec![
                listed(&[224, 0, 0, 0], false),
                listed(&[10, 2, 0, 0], true),
                listed(&[10, 1, 0, 0], false),
                listed(&[10, 1, 0, 0], true),
                listed(&[10, 0, 0, 0], false),
                listed(&[0, 0, 0, 0], true),
            ],
            true,
        );
        let found: Vec<_> = set
            .elements
            .iter()
            .map(|one| (&one.from[..], &one.to[..]))
            .collect();
        let expected: [(&[u8], &[u8]); 3] = [
            (&[10, 0, 0, 0], &[10, 0, 255, 255]),
            (&[10, 1, 0, 0], &[10, 1, 255, 255]),
            (&[224, 0, 0, 0], &[255, 255, 255, 255]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn single_values() {
        let set = Set::of(vec![listed(b"ens5", false), listed(b"wg0\0", false)], false);
        assert!(set.elements.iter().all(|one| one.from == one.to));
        assert_eq!(set.elements.len(), 2);
    }
}
