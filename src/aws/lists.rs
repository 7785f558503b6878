//! Lists as AWS answers them, item by item: what cannot be understood is named and left out, and
//! hides nothing of the rest.

use std::collections::BTreeSet;
use std::ops::Deref;

use anyhow::{Result, bail};
use hanat_core::ids::shown;

use crate::aws::troubles::Troubles;

/// What could be understood of a list, in its order, and what could not.
#[derive(Clone, Debug)]
pub struct List<T> {
    known: Vec<T>,
    odd: Vec<String>,
    /// Their IDs, as far as they have any.
    odd_ids: Vec<Option<String>>,
}

impl<T> List<T> {
    /// Parses each of the items, which are of this `kind` (such as `route table`) and have that
    /// `id`, if any. One that comes twice, since pages may overlap, counts once. What is odd is a
    /// warning, once for each ID in the life of a process.
    pub fn read<'a, I>(
        found: &'a [I],
        kind: &str,
        id: impl Fn(&'a I) -> Option<&'a str>,
        parse: impl Fn(&'a I) -> Result<T>,
        troubles: &Troubles,
    ) -> Self {
        let mut read = BTreeSet::new();
        let mut list = Self::default();
        for item in found {
            let id = id(item);
            if id.is_some_and(|id| read.contains(id)) {
                continue;
            }
            match parse(item) {
                Ok(known) => {
                    read.extend(id);
                    list.known.push(known);
                }
                Err(error) => {
                    let name = match id {
                        Some(id) => format!("{kind} {}", shown(id)),
                        None => format!("{kind} without an ID"),
                    };
                    troubles.warn(&format!("leaving out {name}"), &format!("{error:#}"));
                    list.odd.push(format!("{name}: {error:#}"));
                    list.odd_ids.push(id.map(str::to_owned));
                }
            }
        }
        list
    }

    /// What could not be understood, each with its name and why.
    pub fn odd(&self) -> &[String] {
        &self.odd
    }

    /// Whether what could not be understood may be the one with this ID.
    pub fn may_hide(&self, id: &str) -> bool {
        let mut ids = self.odd_ids.iter();
        ids.any(|odd| odd.as_ref().is_none_or(|odd| odd == id))
    }

    /// The one that `is` what was asked for, if it is there. Where it is not, and something in the
    /// list that could be it cannot be understood, nobody knows.
    pub fn one(self, is: impl FnMut(&T) -> bool) -> Result<Option<T>> {
        let Self { mut known, odd, .. } = self;
        match (known.iter().position(is), odd.first()) {
            (Some(at), _) => Ok(Some(known.swap_remove(at))),
            (None, Some(odd)) => bail!("{odd}"),
            (None, None) => Ok(None),
        }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            odd: Vec::new(),
            odd_ids: Vec::new(),
        }
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.known
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.known.into_iter()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use hanat_core::ids::TableId;
    use proptest::prelude::*;

    /// Texts that no parser expects in any place: missing, empty, unknown, overlong, of several
    /// lines.
    pub fn odd_text() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            Just(None),
            Just(Some(String::new())),
            any::<String>().prop_map(Some),
            "[a-z0-9-]{1,40}".prop_map(Some),
            (1..100_usize).prop_map(|n| Some("x\n".repeat(50 * n))),
        ]
    }

    fn read(found: &[Option<String>]) -> List<TableId> {
        let parse = |id: &Option<String>| Ok(id.as_deref().unwrap_or_default().parse()?);
        let troubles = Troubles::default();
        List::read(found, "route table", Option::as_deref, parse, &troubles)
    }

    fn table(n: u32) -> String {
        format!("rtb-{n:08x}")
    }

    #[test]
    fn the_one_that_was_asked_for_or_nobody_knows() {
        let ours: TableId = table(1).parse().unwrap();
        let one = |found: &[&str]| {
            let found: Vec<_> = found.iter().map(|id| Some((*id).to_owned())).collect();
            read(&found).one(|id| *id == ours)
        };
        assert_eq!(
            one(&["odd", &table(2), &table(1)]).unwrap(),
            Some(ours.clone())
        );
        assert_eq!(one(&[&table(2)]).unwrap(), None);
        let error = one(&["odd", &table(2)]).unwrap_err().to_string();
        assert!(error.starts_with("route table odd: expected "), "{error}");
    }

    #[test]
    fn what_has_no_id_or_this_one_may_be_it() {
        let hides = |odd: Option<&str>| read(&[odd.map(str::to_owned)]).may_hide("rtb-1");
        assert!(hides(None));
        assert!(hides(Some("rtb-1")));
        assert!(!hides(Some("rtb-2")));
        assert!(!read(&[]).may_hide("rtb-1"));
    }

    proptest! {
        /// What is well-formed survives, once, in its order, whatever stands beside it.
        #[test]
        fn the_rest_counts(
            ours in proptest::collection::vec(0..8_u32, 0..12),
            odd in proptest::collection::vec((odd_text(), 0..12_usize), 0..8),
        ) {
            let mut found: Vec<_> = ours.iter().map(|n| Some(table(*n))).collect();
            for (odd, at) in odd {
                found.insert(at.min(found.len()), odd);
            }
            let list = read(&found);
            let mut expected: Vec<TableId> = Vec::new();
            for id in found.iter().flatten().filter_map(|id| id.parse().ok()) {
                if !expected.contains(&id) {
                    expected.push(id);
                }
            }
            prop_assert_eq!(&*list, &expected[..]);
            for text in list.odd() {
                prop_assert!(text.chars().count() < 2000, "{}", text);
                prop_assert!(!text.contains('\n'));
            }
        }
    }
}
