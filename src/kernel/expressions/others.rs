//! Reads expressions that only the rules of others have.
//!
//! Attributes that the library has no names for, or wrong numbers, are those of
//! `linux/netfilter/nf_tables.h`: enum `nft_byteorder_attributes`, `nft_lookup_attributes`,
//! `nft_limit_attributes`, `nft_connlimit_attributes`, `nft_dynset_attributes`,
//! `nft_exthdr_attributes`.

use netlink_bindings::nftables::{
    BitwiseOps, CompatMatchAttrs, CtKeys, ExprBitwiseAttrs, ExprCmpAttrs, ExprCtAttrs,
    ExprFibAttrs, ExprImmediateAttrs, ExprMetaAttrs, ExprObjrefAttrs, ExprPayloadAttrs,
    LookupFlags, MetaKeys, QuotaAttrs, RangeAttrs, RangeOps, Registers,
};
use netlink_bindings::utils::{CStr, find_attr, parse_be_u32};

use super::{EXTHDR_SREG, REGISTER, text, value};
use crate::kernel::ruleset::{Expr, Others};

const BYTEORDER_SREG: u16 = 1;
const BYTEORDER_DREG: u16 = 2;
const BYTEORDER_SIZE: u16 = 5;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_DREG: u16 = 3;
const LOOKUP_FLAGS: u16 = 5;
const LIMIT_FLAGS: u16 = 5;
const CONNLIMIT_FLAGS: u16 = 2;
const DYNSET_EXPR: u16 = 7;
const DYNSET_EXPRESSIONS: u16 = 10;

/// `NFT_LIMIT_F_INV`, `NFT_CONNLIMIT_F_INV` and `NFT_QUOTA_F_INV`.
const INVERTED: u32 = 1;

/// Objects that let every packet go on (`NFT_OBJECT_…`): counters, helpers, timeouts, security
/// marks and expectations.
const ASIDE_OBJECTS: [u32; 5] = [1, 3, 7, 8, 9];

/// None for what is not understood.
pub fn decode(name: &str, data: &[u8]) -> Option<Expr> {
    match name {
        "log" | "notrack" | "last" | "flow_offload" | "dup" => Some(Expr::Aside),
        "meta" => meta(data),
        "ct" => ct(data),
        "payload" => payload(data),
        "fib" => {
            let fib = ExprFibAttrs::new(data);
            let (result, flags) = (fib.get_result().ok()?, fib.get_flags().ok()?);
            on(fib.get_dreg(), Expr::Others(Others::Fib { result, flags }))
        }
        "bitwise" => bitwise(data),
        "byteorder" => {
            let register = number(data, BYTEORDER_SREG)?;
            let size = usize::try_from(number(data, BYTEORDER_SIZE)?).ok()?;
            let same = number(data, BYTEORDER_DREG) == Some(register);
            same.then(|| on_register(register, Expr::Others(Others::Swap(size))))
        }
        "immediate" => {
            let immediate = ExprImmediateAttrs::new(data);
            let constant = Expr::Value(value(immediate.get_data())?);
            on(immediate.get_dreg(), constant)
        }
        "cmp" => {
            let cmp = ExprCmpAttrs::new(data);
            let (op, value) = (cmp.get_op().ok()?, value(cmp.get_data())?);
            on(cmp.get_sreg(), Expr::Cmp { op, value })
        }
        "range" => {
            let range = RangeAttrs::new(data);
            let compares = Others::Range {
                from: value(range.get_from_data())?,
                to: value(range.get_to_data())?,
                inverted: range.get_op() == Ok(RangeOps::Neq as u32),
            };
            on(range.get_sreg(), Expr::Others(compares))
        }
        "lookup" => lookup(data),
        "limit" => Some(limit(number(data, LIMIT_FLAGS))),
        "connlimit" => Some(limit(number(data, CONNLIMIT_FLAGS))),
        "quota" => Some(limit(QuotaAttrs::new(data).get_flags().ok())),
        "objref" => {
            let object = ExprObjrefAttrs::new(data).get_imm_type().ok()?;
            ASIDE_OBJECTS.contains(&object).then_some(Expr::Aside)
        }
        // What it adds to the set it does to every packet, unless it measures first.
        "dynset" => [DYNSET_EXPR, DYNSET_EXPRESSIONS]
            .iter()
            .all(|attribute| find_attr(data, *attribute).is_none())
            .then_some(Expr::Aside),
        "exthdr" => find_attr(data, EXTHDR_SREG).map(|_| Expr::Aside),
        "match" => {
            let found = CompatMatchAttrs::new(data);
            Some(Expr::Others(Others::Match {
                name: text(found.get_name()),
                revision: found.get_rev().ok()?,
                info: found.get_info().ok()?.to_vec(),
            }))
        }
        _ => None,
    }
}

fn meta(data: &[u8]) -> Option<Expr> {
    let meta = ExprMetaAttrs::new(data);
    let key = meta.get_key().ok()?;
    if meta.get_sreg().is_err() {
        return on(meta.get_dreg(), Expr::Meta(key));
    }
    Some(if key == MetaKeys::Mark as u32 {
        Expr::Others(Others::SetMark)
    } else {
        Expr::Aside
    })
}

fn ct(data: &[u8]) -> Option<Expr> {
    let ct = ExprCtAttrs::new(data);
    let key = ct.get_key().ok()?;
    if ct.get_sreg().is_err() {
        let load = match ct.get_direction() {
            Ok(direction) => Expr::Others(Others::CtOf { key, direction }),
            Err(_) => Expr::Ct(key),
        };
        return on(ct.get_dreg(), load);
    }
    Some(if key == CtKeys::Mark as u32 {
        Expr::Others(Others::SetConnectionMark)
    } else {
        Expr::Aside
    })
}

fn payload(data: &[u8]) -> Option<Expr> {
    let payload = ExprPayloadAttrs::new(data);
    if payload.get_sreg().is_ok() {
        return Some(Expr::Aside);
    }
    let load = Expr::Payload {
        base: payload.get_base().ok()?,
        offset: payload.get_offset().ok()?,
        len: payload.get_len().ok()?,
    };
    on(payload.get_dreg(), load)
}

fn bitwise(data: &[u8]) -> Option<Expr> {
    let bitwise = ExprBitwiseAttrs::new(data);
    let register = bitwise.get_sreg().ok()?;
    // Older kernels know no other operation and do not name it.
    let masks = bitwise.get_op().unwrap_or_default() == BitwiseOps::MaskXor as u32;
    if bitwise.get_dreg() != Ok(register) || !masks {
        return None;
    }
    let (mask, bits) = (value(bitwise.get_mask())?, value(bitwise.get_xor())?);
    Some(on_register(
        register,
        Expr::Others(Others::Flip { mask, bits }),
    ))
}

fn lookup(data: &[u8]) -> Option<Expr> {
    let set = find_attr(data, LOOKUP_SET).and_then(|name| CStr::from_bytes_until_nul(name).ok())?;
    let set = set.to_string_lossy().into_owned();
    let looks_up = match number(data, LOOKUP_DREG) {
        None => {
            let flags = number(data, LOOKUP_FLAGS).unwrap_or_default();
            let inverted = flags & LookupFlags::Invert as u32 != 0;
            Others::Lookup { set, inverted }
        }
        Some(register) if register == Registers::RegVerdict as u32 => Others::VerdictMap(set),
        // Loads what a map has.
        Some(_) => return None,
    };
    let register = number(data, LOOKUP_SREG)?;
    Some(on_register(register, Expr::Others(looks_up)))
}

fn limit(flags: Option<u32>) -> Expr {
    let above = flags.unwrap_or_default() & INVERTED != 0;
    Expr::Others(Others::Limit { above })
}

fn on<E>(register: Result<u32, E>, expr: Expr) -> Option<Expr> {
    Some(on_register(register.ok()?, expr))
}

fn on_register(register: u32, expr: Expr) -> Expr {
    if register == REGISTER {
        expr
    } else {
        Expr::Others(Others::On(register, Box::new(expr)))
    }
}

fn number(data: &[u8], attribute: u16) -> Option<u32> {
    find_attr(data, attribute).and_then(parse_be_u32)
}
