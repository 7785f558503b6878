//! Reads the sets that rules look things up in.

use std::collections::BTreeSet;

use netlink_bindings::nftables::{
    DataAttrs, IterableSetelemAttrs, Nfgenmsg, Request, SetElemFlags, SetFlags,
};
use netlink_bindings::utils::{find_attr, parse_be_u32};
use netlink_socket2::NetlinkSocket;

use super::dump;
use crate::kernel::expressions;
use crate::kernel::ruleset::{Expr, Others, Ruleset, Table, Verdict};
use crate::kernel::sets::{Element, Listed, Set};

/// `NFTA_SET_ELEM_KEY_END` of `linux/netfilter/nf_tables.h`; the library has another number.
const KEY_END: u16 = 10;

/// More elements are not looked at: who has so many bans addresses one by one.
const MOST: usize = 1 << 16;

/// Adds the sets that the rules of others use to what was read. One that cannot be read is noted
/// with the reason; rules that use it are not understood.
pub fn read(socket: &mut NetlinkSocket, ruleset: &mut Ruleset) {
    let used: BTreeSet<(u8, String, String)> = ruleset.foreign().flat_map(used_by).collect();
    for (family, table, name) in used {
        let set = elements(socket, family, &table, &name).map_err(|error| format!("{error:#}"));
        ruleset.sets.insert((family, table, name), set);
    }
}

fn used_by(table: &Table) -> impl Iterator<Item = (u8, String, String)> {
    let exprs = table.chains.iter().flat_map(|chain| chain.rules.iter());
    let names = exprs.flatten().filter_map(set_name);
    names.map(|name| (table.family, table.name.clone(), name.to_owned()))
}

fn set_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Others(Others::Lookup { set, .. } | Others::VerdictMap(set)) => Some(set),
        Expr::Others(Others::On(_, expr)) => set_name(expr),
        _ => None,
    }
}

fn elements(
    socket: &mut NetlinkSocket,
    family: u8,
    table: &str,
    name: &str,
) -> anyhow::Result<Set> {
    let header = Nfgenmsg {
        nfgen_family: family,
        ..Default::default()
    };
    let mut of_set = Request::new().op_getset_do(&header);
    of_set
        .encode()
        .push_table_bytes(table.as_bytes())
        .push_name_bytes(name.as_bytes());
    let mut flags = 0;
    dump(socket, &of_set, |(_, set)| {
        flags = set.get_flags().unwrap_or_default();
        Ok(())
    })?;
    let mut of_elements = Request::new().op_getsetelem_dump(&header);
    of_elements
        .encode()
        .push_table_bytes(table.as_bytes())
        .push_set_bytes(name.as_bytes());
    let (mut listed, mut catchall, mut all) = (Vec::new(), None, true);
    dump(socket, &of_elements, |(_, list)| {
        let elements = list.get_elements().into_iter();
        for element in elements.flat_map(|elements| elements.get_elem()) {
            let flags = element.get_flags().ok().and_then(parse_be_u32);
            let flags = flags.unwrap_or_default();
            if flags & SetElemFlags::Catchall as u32 != 0 {
                let (from, to) = (Vec::new(), Vec::new());
                let verdict = verdict(&element);
                catchall = Some(Element { from, to, verdict });
            } else if listed.len() == MOST {
                all = false;
            } else {
                listed.push(Listed {
                    key: element.get_key()?.get_value()?.to_vec(),
                    key_end: key_end(&element),
                    ends_interval: flags & SetElemFlags::IntervalEnd as u32 != 0,
                    verdict: verdict(&element),
                });
            }
        }
        Ok(())
    })?;
    anyhow::ensure!(all, "it has more than {MOST} elements");
    let mut set = Set::of(listed, flags & SetFlags::Interval as u32 != 0);
    set.catchall = catchall;
    Ok(set)
}

fn key_end(element: &IterableSetelemAttrs<'_>) -> Option<Vec<u8>> {
    let end = find_attr(element.get_buf(), KEY_END)?;
    Some(DataAttrs::new(end).get_value().ok()?.to_vec())
}

fn verdict(element: &IterableSetelemAttrs<'_>) -> Option<Verdict> {
    expressions::verdict(&element.get_data().ok()?)
}
