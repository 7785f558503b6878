//! What a rule has loaded, and how it compares with a value, an interval or a set. No I/O.

use netlink_bindings::nftables::CmpOps;

use super::values::{Field, Truth};
use crate::kernel::sets::Element;

/// Registers of 4 bytes; the first numbers are those of 16 (`linux/netfilter/nf_tables.h`).
const REGISTERS: usize = 16;
const WIDTH: usize = 4;

/// Fields, and at which byte each begins that was loaded there.
pub type Loaded = Vec<(usize, Field)>;

/// What was loaded, by the number of the register that it begins in.
#[derive(Default)]
pub struct Registers([Option<Vec<Field>>; REGISTERS]);

impl Registers {
    /// In the place of whatever these registers had.
    pub fn load(&mut self, register: u32, fields: Vec<Field>) {
        let Some(at) = number(register) else {
            return;
        };
        let end = at + length(&fields).div_ceil(WIDTH);
        for (begins, other) in self.0.iter_mut().enumerate() {
            let ends = begins + other.as_deref().map_or(0, length).div_ceil(WIDTH);
            if begins < end && at < ends {
                *other = None;
            }
        }
        self.0[at] = Some(fields);
    }

    /// `(loaded & mask) ^ flipped`.
    pub fn mask(&mut self, register: u32, mask: &[u8], flipped: &[u8]) {
        self.change(register, |field, at| masked(field, at, mask, flipped));
    }

    /// With each `size` bytes in the opposite order.
    pub fn swap(&mut self, register: u32, size: usize) {
        self.change(register, |field, _| field.swapped(size));
    }

    /// With what each field becomes that is loaded there, by the byte it begins at.
    fn change(&mut self, register: u32, change: impl Fn(&Field, usize) -> Field) {
        let Some(fields) = number(register).and_then(|at| self.0[at].as_mut()) else {
            return;
        };
        let mut at = 0;
        for field in fields {
            *field = change(field, at);
            at += field.len();
        }
    }

    /// So many bytes from there on. What follows is in the next register that is free.
    pub fn read(&self, register: u32, len: usize) -> Loaded {
        let mut found = Vec::new();
        let Some(mut register) = number(register) else {
            return found;
        };
        let mut at = 0;
        while at < len {
            let Some(fields) = self.0.get(register).and_then(Option::as_ref) else {
                break;
            };
            let begins = at;
            for field in fields {
                let seen = field.len().min(len.saturating_sub(at));
                if seen > 0 {
                    found.push((at, field.part(0, seen)));
                }
                at += field.len();
            }
            let registers = (at - begins).div_ceil(WIDTH).max(1);
            register += registers;
            at = begins + registers * WIDTH;
        }
        found
    }
}

fn length(fields: &[Field]) -> usize {
    fields.iter().map(Field::len).sum()
}

fn number(register: u32) -> Option<usize> {
    let number = match register {
        1..=4 => (register - 1) * 4,
        8..=23 => register - 8,
        _ => return None,
    };
    usize::try_from(number).ok()
}

fn masked(field: &Field, at: usize, mask: &[u8], bits: &[u8]) -> Field {
    // What is not loaded by the length of the mask stays as it is.
    let byte = |bytes: &[u8], number: usize, default| bytes.get(number).copied().unwrap_or(default);
    let mask: Vec<u8> = (at..at + field.len())
        .map(|n| byte(mask, n, 0xff))
        .collect();
    let bits: Vec<u8> = (at..at + field.len()).map(|n| byte(bits, n, 0)).collect();
    field.masked(&mask, &bits)
}

/// Whether all fields are in their parts of the interval, of which they are to cover every byte
/// that was loaded.
pub fn within(fields: &Loaded, from: &[u8], to: &[u8]) -> Truth {
    let part = |field: &Field, at: usize| {
        let range = at..at + field.len();
        Some((from.get(range.clone())?, to.get(range)?))
    };
    let covered = fields.last().map_or(0, |(at, field)| at + field.len());
    if from.is_empty() || covered.next_multiple_of(WIDTH) < from.len() {
        return Truth::Maybe;
    }
    let truths = fields.iter().map(|(at, field)| {
        let part = part(field, *at);
        part.map_or(Truth::Maybe, |(from, to)| field.is(from, to))
    });
    truths.fold(Truth::Always, Truth::and)
}

/// Whether they are one of the elements.
pub fn contained(fields: &Loaded, elements: &[Element]) -> Truth {
    if let [(0, field)] = &fields[..] {
        let of_its_length = |element: &&Element| element.from.len() == field.len();
        if elements.iter().all(|element| of_its_length(&element)) {
            let intervals = elements.iter();
            return field.within(intervals.map(|one| (&one.from[..], &one.to[..])));
        }
    }
    let truths = elements.iter();
    let truths = truths.map(|element| within(fields, &element.from, &element.to));
    truths.fold(Truth::Never, Truth::or)
}

/// Whether they compare to the value in that way of the kernel's.
pub fn compared(fields: &Loaded, op: u32, value: &[u8]) -> Truth {
    let is = |known: CmpOps| known as u32 == op;
    let (least, most) = (vec![0; value.len()], vec![0xff; value.len()]);
    if is(CmpOps::Eq) || is(CmpOps::Neq) {
        within(fields, value, value).inverted(is(CmpOps::Neq))
    } else if fields.len() > 1 {
        // Which field it hangs on depends on the one before.
        Truth::Maybe
    } else if is(CmpOps::Lte) || is(CmpOps::Gt) {
        within(fields, &least, value).inverted(is(CmpOps::Gt))
    } else if is(CmpOps::Gte) || is(CmpOps::Lt) {
        within(fields, value, &most).inverted(is(CmpOps::Lt))
    } else {
        Truth::Maybe
    }
}

/// What they are, to a person.
pub fn names(fields: &Loaded) -> String {
    let names: Vec<&str> = fields.iter().map(|(_, field)| field.name).collect();
    names.join(" . ")
}
