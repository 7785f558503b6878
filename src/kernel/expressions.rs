//! Expressions of nftables as netlink attributes, both ways. Our own rules load everything into
//! register 1.
//!
//! `masq` and `exthdr` cannot be pushed through the library's typed lists and are encoded here by
//! hand. The numbers are those of `linux/netfilter/nf_tables.h`: enum `nft_list_attributes`,
//! `nft_expr_attributes`, `nft_masq_attributes`, `nft_exthdr_attributes`, `nft_exthdr_op`.

mod others;

use netlink_bindings::nftables::{
    ExprBitwiseAttrs, ExprCmpAttrs, ExprCtAttrs, ExprImmediateAttrs, ExprMasqAttrs, ExprMetaAttrs,
    ExprNatAttrs, ExprPayloadAttrs, ExprTargetAttrs, IterableDataAttrs, IterableExprAttrs,
    PushExprListAttrs, Registers, VerdictCode,
};
use netlink_bindings::utils::{
    CStr, Pusher, align, finalize_nested_header, find_attr, parse_be_u32, push_header,
    push_nested_header,
};

use super::ruleset::{Expr, Verdict};

const REGISTER: u32 = Registers::Reg1 as u32;

/// `NFT_NAT_SNAT` of enum `nft_nat_types`.
const NAT_SOURCE: u32 = 0;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const MASQ_FLAGS: u16 = 1;
const EXTHDR_TYPE: u16 = 2;
const EXTHDR_OFFSET: u16 = 3;
const EXTHDR_LEN: u16 = 4;
const EXTHDR_OP: u16 = 6;
const EXTHDR_SREG: u16 = 7;
const OP_TCP_OPTION: u32 = 1;

/// TCP option 2: a byte of kind, one of length, then two of segment size (RFC 9293, 3.2).
const MAX_SEGMENT: u8 = 2;
const SET_MAX_SEGMENT: [(u16, u32); 4] = [
    (EXTHDR_SREG, REGISTER),
    (EXTHDR_OFFSET, 2),
    (EXTHDR_LEN, 2),
    (EXTHDR_OP, OP_TCP_OPTION),
];

/// Appends one expression of a rule of ours.
pub fn encode<P: Pusher>(mut list: PushExprListAttrs<P>, expr: &Expr) -> PushExprListAttrs<P> {
    match expr {
        Expr::Meta(key) => list
            .nested_elem()
            .nested_data_meta()
            .push_dreg(REGISTER)
            .push_key(*key)
            .end_nested()
            .end_nested(),
        Expr::Ct(key) => list
            .nested_elem()
            .nested_data_ct()
            .push_dreg(REGISTER)
            .push_key(*key)
            .end_nested()
            .end_nested(),
        Expr::Payload { base, offset, len } => list
            .nested_elem()
            .nested_data_payload()
            .push_dreg(REGISTER)
            .push_base(*base)
            .push_offset(*offset)
            .push_len(*len)
            .end_nested()
            .end_nested(),
        Expr::Mask(mask) => list
            .nested_elem()
            .nested_data_bitwise()
            .push_sreg(REGISTER)
            .push_dreg(REGISTER)
            .push_len(u32::try_from(mask.len()).unwrap_or(u32::MAX))
            .nested_mask()
            .push_value(mask)
            .end_nested()
            .nested_xor()
            .push_value(&vec![0; mask.len()])
            .end_nested()
            .end_nested()
            .end_nested(),
        Expr::Cmp { op, value } => list
            .nested_elem()
            .nested_data_cmp()
            .push_sreg(REGISTER)
            .push_op(*op)
            .nested_data()
            .push_value(value)
            .end_nested()
            .end_nested()
            .end_nested(),
        Expr::Value(value) => list
            .nested_elem()
            .nested_data_immediate()
            .push_dreg(REGISTER)
            .nested_data()
            .push_value(value)
            .end_nested()
            .end_nested()
            .end_nested(),
        Expr::Counter => list
            .nested_elem()
            .nested_data_counter()
            .end_nested()
            .end_nested(),
        Expr::Verdict(verdict) => list
            .nested_elem()
            .nested_data_immediate()
            .push_dreg(Registers::RegVerdict as u32)
            .nested_data()
            .nested_verdict()
            .push_code(code(verdict))
            .end_nested()
            .end_nested()
            .end_nested()
            .end_nested(),
        Expr::Masquerade { flags } => {
            push_expr(list.as_vec_mut(), b"masq\0", |buf| {
                push_u32(buf, MASQ_FLAGS, *flags);
            });
            list
        }
        Expr::SetMaxSegment => {
            push_expr(list.as_vec_mut(), b"exthdr\0", |buf| {
                push_header(buf, EXTHDR_TYPE, 1);
                buf.push(MAX_SEGMENT);
                for (attribute, value) in SET_MAX_SEGMENT {
                    push_u32(buf, attribute, value);
                }
            });
            list
        }
        // Not part of any rule of ours; the read-back would miss it.
        Expr::SourceNat
        | Expr::Reject
        | Expr::Target(_)
        | Expr::Aside
        | Expr::Others(_)
        | Expr::Other(_) => list,
    }
}

fn code(verdict: &Verdict) -> u32 {
    let code = match verdict {
        Verdict::Accept => VerdictCode::Accept,
        Verdict::Drop => VerdictCode::Drop,
        Verdict::Return => VerdictCode::Return,
        Verdict::Jump(_) => VerdictCode::Jump,
        Verdict::Goto(_) => VerdictCode::Goto,
        Verdict::Other(code) => return *code,
    };
    code as u32
}

fn push_expr(buf: &mut Vec<u8>, name: &'static [u8], push_attributes: impl FnOnce(&mut Vec<u8>)) {
    let elem = push_nested_header(buf, LIST_ELEM);
    push_header(
        buf,
        EXPR_NAME,
        u16::try_from(name.len()).unwrap_or(u16::MAX),
    );
    buf.extend(name);
    let data = push_nested_header(buf, EXPR_DATA);
    push_attributes(buf);
    align(buf);
    finalize_nested_header(buf, data);
    finalize_nested_header(buf, elem);
}

fn push_u32(buf: &mut Vec<u8>, attribute: u16, value: u32) {
    push_header(buf, attribute, 4);
    buf.extend(value.to_be_bytes());
}

/// Reads one expression of any rule.
pub fn decode(expr: &IterableExprAttrs<'_>) -> Expr {
    let name = text(expr.get_name());
    let data = find_attr(expr.get_buf(), EXPR_DATA).unwrap_or_default();
    decode_known(&name, data)
        .or_else(|| others::decode(&name, data))
        .unwrap_or(Expr::Other(name))
}

/// What our own rules have, too. None also for what is known and works in a way that is not ours,
/// such as on another register.
fn decode_known(name: &str, data: &[u8]) -> Option<Expr> {
    let expr = match name {
        "meta" => {
            let meta = ExprMetaAttrs::new(data);
            is_ours(meta.get_dreg())?;
            Expr::Meta(meta.get_key().ok()?)
        }
        "payload" => {
            let payload = ExprPayloadAttrs::new(data);
            is_ours(payload.get_dreg())?;
            Expr::Payload {
                base: payload.get_base().ok()?,
                offset: payload.get_offset().ok()?,
                len: payload.get_len().ok()?,
            }
        }
        "bitwise" => {
            let bitwise = ExprBitwiseAttrs::new(data);
            is_ours(bitwise.get_sreg())?;
            is_ours(bitwise.get_dreg())?;
            let flipped = value(bitwise.get_xor())?.iter().any(|bits| *bits != 0);
            // Older kernels know no other operation and do not name it.
            let shifts = bitwise.get_op().is_ok_and(|op| op != 0);
            if flipped || shifts {
                return None;
            }
            Expr::Mask(value(bitwise.get_mask())?)
        }
        "cmp" => {
            let cmp = ExprCmpAttrs::new(data);
            is_ours(cmp.get_sreg())?;
            Expr::Cmp {
                op: cmp.get_op().ok()?,
                value: value(cmp.get_data())?,
            }
        }
        "immediate" => {
            let immediate = ExprImmediateAttrs::new(data);
            let data = immediate.get_data();
            if immediate.get_dreg() == Ok(Registers::RegVerdict as u32) {
                Expr::Verdict(verdict(&data.ok()?)?)
            } else {
                is_ours(immediate.get_dreg())?;
                Expr::Value(value(data)?)
            }
        }
        "counter" => Expr::Counter,
        "masq" => Expr::Masquerade {
            flags: ExprMasqAttrs::new(data).get_flags().unwrap_or_default(),
        },
        "nat" if ExprNatAttrs::new(data).get_type() == Ok(NAT_SOURCE) => Expr::SourceNat,
        "exthdr" if sets_max_segment(data) => Expr::SetMaxSegment,
        "reject" => Expr::Reject,
        "ct" => {
            let ct = ExprCtAttrs::new(data);
            // Some things are known of each direction by itself.
            if ct.get_direction().is_ok() {
                return None;
            }
            is_ours(ct.get_dreg())?;
            Expr::Ct(ct.get_key().ok()?)
        }
        "target" => Expr::Target(text(ExprTargetAttrs::new(data).get_name())),
        _ => return None,
    };
    Some(expr)
}

fn is_ours<E>(register: Result<u32, E>) -> Option<()> {
    (register.ok()? == REGISTER).then_some(())
}

fn value<E>(data: Result<IterableDataAttrs<'_>, E>) -> Option<Vec<u8>> {
    Some(data.ok()?.get_value().ok()?.to_vec())
}

/// The verdict that data of a rule or of a map is.
pub fn verdict(data: &IterableDataAttrs<'_>) -> Option<Verdict> {
    let verdict = data.get_verdict().ok()?;
    let code = verdict.get_code().ok()?;
    let is = |known: VerdictCode| code == known as u32;
    Some(if is(VerdictCode::Accept) {
        Verdict::Accept
    } else if is(VerdictCode::Drop) {
        Verdict::Drop
    } else if is(VerdictCode::Return) {
        Verdict::Return
    } else if is(VerdictCode::Jump) {
        Verdict::Jump(text(verdict.get_chain()))
    } else if is(VerdictCode::Goto) {
        Verdict::Goto(text(verdict.get_chain()))
    } else {
        Verdict::Other(code)
    })
}

fn sets_max_segment(data: &[u8]) -> bool {
    let is = |(attribute, value): (u16, u32)| {
        find_attr(data, attribute).and_then(parse_be_u32) == Some(value)
    };
    find_attr(data, EXTHDR_TYPE) == Some(&[MAX_SEGMENT]) && SET_MAX_SEGMENT.into_iter().all(is)
}

fn text<E>(name: Result<&CStr, E>) -> String {
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
