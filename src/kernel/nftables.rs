//! nftables over netlink: reads all rules, replaces our table in one transaction.

mod sets;

use std::io::ErrorKind;

use anyhow::{Context, Result, anyhow};
use netlink_bindings::nftables::{
    Chained, ChainedFinal, IterableChainAttrs, IterableRuleAttrs, IterableTableAttrs, Nfgenmsg,
    Request, VerdictCode,
};
use netlink_bindings::traits::{NetlinkChained, NetlinkRequest};
use netlink_bindings::utils::{CStr, ErrorContext};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::expressions;
use super::ruleset::{Base, Chain, Expr, Ruleset, Table};

/// `NFNL_SUBSYS_NFTABLES` of linux/netfilter/nfnetlink.h: whose transaction a batch is.
const SUBSYSTEM: u16 = 10;

/// Everything that is loaded, in all families, and the sets that others' rules use.
pub fn read(socket: &mut NetlinkSocket) -> Result<Ruleset> {
    let any = Nfgenmsg::new();
    let mut ruleset = Ruleset::default();
    let tables = Request::new().op_gettable_dump(&any);
    dump(socket, &tables, |(header, table)| {
        ruleset.add_table(header.nfgen_family, &table)
    })
    .context("listing the nftables tables")?;
    let chains = Request::new().op_getchain_dump(&any);
    dump(socket, &chains, |(header, chain)| {
        ruleset.add_chain(header.nfgen_family, &chain)
    })
    .context("listing the nftables chains")?;
    let rules = Request::new().op_getrule_dump(&any);
    dump(socket, &rules, |(header, rule)| {
        ruleset.add_rule(header.nfgen_family, &rule)
    })
    .context("listing the nftables rules")?;
    sets::read(socket, &mut ruleset);
    Ok(ruleset)
}

fn dump<R: NetlinkRequest>(
    socket: &mut NetlinkSocket,
    request: &R,
    mut add: impl FnMut(R::ReplyType<'_>) -> Result<(), ErrorContext>,
) -> Result<()> {
    let mut replies = socket.request(request).map_err(|error| unsent(&error))?;
    while let Some(reply) = replies.recv() {
        let reply = reply.map_err(|error| refused(&error))?;
        add(reply).map_err(|error| anyhow!("the kernel's answer lacks something: {error}"))?;
    }
    Ok(())
}

impl Ruleset {
    fn add_table(
        &mut self,
        family: u8,
        table: &IterableTableAttrs<'_>,
    ) -> Result<(), ErrorContext> {
        self.tables.push(Table {
            family,
            name: text(table.get_name()?),
            flags: table.get_flags().unwrap_or_default(),
            chains: Vec::new(),
        });
        Ok(())
    }

    /// Tables come and go between the dumps; what belongs to none is left out.
    fn add_chain(
        &mut self,
        family: u8,
        chain: &IterableChainAttrs<'_>,
    ) -> Result<(), ErrorContext> {
        let base = match chain.get_hook() {
            Ok(hook) => Some(Base {
                kind: text(chain.get_type()?),
                hook: hook.get_num()?,
                priority: hook.get_priority()?,
                drops: chain.get_policy() == Ok(VerdictCode::Drop as u32),
            }),
            Err(_) => None,
        };
        if let Some(table) = self.table_mut(family, chain.get_table()?) {
            table.chains.push(Chain {
                name: text(chain.get_name()?),
                base,
                rules: Vec::new(),
            });
        }
        Ok(())
    }

    fn add_rule(&mut self, family: u8, rule: &IterableRuleAttrs<'_>) -> Result<(), ErrorContext> {
        let name = text(rule.get_chain()?);
        let table = self.table_mut(family, rule.get_table()?);
        let chain = table.and_then(|table| table.chains.iter_mut().find(|c| c.name == name));
        if let Some(chain) = chain {
            let exprs = rule.get_expressions().into_iter();
            let exprs = exprs.flat_map(|list| list.get_elem());
            chain
                .rules
                .push(exprs.map(|expr| expressions::decode(&expr)).collect());
        }
        Ok(())
    }

    fn table_mut(&mut self, family: u8, name: &CStr) -> Option<&mut Table> {
        let name = name.to_string_lossy();
        let mut tables = self.tables.iter_mut();
        tables.find(|table| table.family == family && table.name == name)
    }
}

/// Puts `table` in its place, all at once: no packet meets anything in between, and connections
/// that are known keep their addresses and ports.
///
/// `replaces` says whether there is one of that name. Deleting none, to be sure, would do the same
/// and take 12 ms instead of 1, because the kernel waits for packets under way.
pub fn put(socket: &mut NetlinkSocket, table: &Table, replaces: bool) -> Result<()> {
    let header = Nfgenmsg {
        nfgen_family: table.family,
        ..Default::default()
    };
    let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
    // Begin, table, end; before them a table and its deletion.
    let messages = if replaces { 5 } else { 3 } + table.chains.len() + rules;
    let first = socket.reserve_seq(u32::try_from(messages + 1)?);
    let mut batch = Chained::new(first);
    batch.request().op_batch_begin_do(&batch_header());
    let create = |batch: &mut Chained<'_>| {
        let request = batch.request().set_create();
        let mut request = request.op_newtable_do(&header);
        request.encode().push_name_bytes(table.name.as_bytes());
    };
    if replaces {
        // Somebody may have deleted it since: then it is there to be deleted.
        create(&mut batch);
        let mut deletion = batch.request().op_deltable_do(&header);
        deletion.encode().push_name_bytes(table.name.as_bytes());
    }
    create(&mut batch);
    if messages.is_multiple_of(64) {
        // The library waits for no answer to so many; this one changes nothing.
        create(&mut batch);
    }
    for chain in &table.chains {
        add_chain(&mut batch, &header, &table.name, chain);
        for rule in &chain.rules {
            add_rule(&mut batch, &header, &table.name, &chain.name, rule);
        }
    }
    batch.request().op_batch_end_do(&batch_header());
    let batch = Batch::new(batch.finalize());
    let context = || format!("putting the nftables table {table} in place");
    let mut replies = socket
        .request_chained(&batch)
        .map_err(|error| unsent(&error))
        .with_context(context)?;
    replies
        .recv_all()
        .map_err(|error| refused(&error))
        .with_context(context)
}

fn add_chain(batch: &mut Chained<'_>, header: &Nfgenmsg, table: &str, chain: &Chain) {
    let mut request = batch.request().set_create().op_newchain_do(header);
    let attributes = request
        .encode()
        .push_table_bytes(table.as_bytes())
        .push_name_bytes(chain.name.as_bytes());
    let Some(base) = &chain.base else {
        return;
    };
    let policy = if base.drops {
        VerdictCode::Drop
    } else {
        VerdictCode::Accept
    };
    attributes
        .nested_hook()
        .push_num(base.hook)
        .push_priority(base.priority)
        .end_nested()
        .push_type_bytes(base.kind.as_bytes())
        .push_policy(policy as u32);
}

fn add_rule(batch: &mut Chained<'_>, header: &Nfgenmsg, table: &str, chain: &str, rule: &[Expr]) {
    let request = batch.request().set_create().set_append();
    let mut request = request.op_newrule_do(header);
    let exprs = request
        .encode()
        .push_table_bytes(table.as_bytes())
        .push_chain_bytes(chain.as_bytes())
        .nested_expressions();
    rule.iter().fold(exprs, expressions::encode);
}

fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    header
}

/// A transaction of which the kernel acknowledges one message, the one before the last. What is
/// wrong with any of them it says all the same (`net/netfilter/nfnetlink.c`); an acknowledgement of
/// each would be more answers, on a machine with many addresses and blocks, than the socket has
/// room for. The last message itself is not acknowledged by kernels before 6.10.
struct Batch {
    chained: ChainedFinal<'static>,
    payload: Vec<u8>,
}

impl Batch {
    fn new(chained: ChainedFinal<'static>) -> Self {
        let mut payload = chained.payload().to_vec();
        ask_for_one(&mut payload, acknowledged(chained.chain_len()));
        Self { chained, payload }
    }
}

fn acknowledged(messages: usize) -> usize {
    messages.saturating_sub(2)
}

/// Takes the flag that asks for an acknowledgement from all messages but one.
fn ask_for_one(messages: &mut [u8], one: usize) {
    /// `struct nlmsghdr` of linux/netlink.h: 4 bytes of length, 2 of type, 2 of flags, …
    const HEADER: usize = 16;
    const NLM_F_ACK: u16 = 0x4;
    let mut rest = messages;
    let mut index = 0;
    while let Some([l0, l1, l2, l3, _, _, f0, f1]) = rest.first_chunk_mut::<8>() {
        if index != one {
            let flags = u16::from_ne_bytes([*f0, *f1]) & !NLM_F_ACK;
            [*f0, *f1] = flags.to_ne_bytes();
        }
        let length = u32::from_ne_bytes([*l0, *l1, *l2, *l3]) as usize;
        let next = length.max(HEADER).next_multiple_of(4);
        rest = rest.get_mut(next..).unwrap_or_default();
        index += 1;
    }
}

impl NetlinkChained for Batch {
    fn protonum(&self) -> u16 {
        self.chained.protonum()
    }

    fn payload(&self) -> &[u8] {
        &self.payload
    }

    fn chain_len(&self) -> usize {
        self.chained.chain_len()
    }

    fn get_index(&self, seq: u32) -> Option<usize> {
        NetlinkChained::get_index(&self.chained, seq)
    }

    fn name(&self, index: usize) -> &'static str {
        self.chained.name(index)
    }

    fn supports_ack(&self, index: usize) -> Option<bool> {
        let messages = self.chain_len();
        (index < messages).then(|| index == acknowledged(messages))
    }
}

/// The request did not reach the kernel.
fn unsent(error: &std::io::Error) -> anyhow::Error {
    // Where no socket can be made, the library says so with EPERM, whatever the reason was.
    if error.kind() == ErrorKind::PermissionDenied {
        anyhow!(
            "no netlink socket for netfilter is to be had: the kernel is built without nf_tables, \
             or it is not permitted here"
        )
    } else {
        anyhow!("asking the kernel: {error}")
    }
}

/// What the kernel answered, and what it means where that is known.
fn refused(error: &ReplyError) -> anyhow::Error {
    let answer = error.as_io_error();
    let said = error.ext_ack().and_then(|ack| ack.get_msg().ok());
    let said = said.map_or(String::new(), |said| {
        format!(": {}", said.to_string_lossy())
    });
    let meaning = match answer.kind() {
        ErrorKind::PermissionDenied => "; it takes root or CAP_NET_ADMIN",
        ErrorKind::NotFound => "; the kernel lacks a part of nf_tables, such as nft_masq",
        ErrorKind::InvalidInput | ErrorKind::Unsupported => "; the kernel may lack nf_tables",
        _ => "",
    };
    anyhow!("{answer}{said}{meaning}")
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_acknowledged() {
        let message = |length: u32| {
            let mut message = length.to_ne_bytes().to_vec();
            message.resize(length.next_multiple_of(4) as usize, 0);
            message[6..8].copy_from_slice(&0x405_u16.to_ne_bytes());
            message
        };
        let mut messages = [message(16), message(21), message(20)].concat();
        ask_for_one(&mut messages, 1);
        let flags = |at: usize| u16::from_ne_bytes([messages[at + 6], messages[at + 7]]);
        assert_eq!([flags(0), flags(16), flags(40)], [0x401, 0x405, 0x401]);
        // Nothing to be afraid of.
        ask_for_one(&mut [0; 9], 1);
    }
}
