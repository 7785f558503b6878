//! nftables over netlink: reads all rules, replaces our table in one transaction.

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

/// Everything that is loaded, in all families.
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
    let batch = Batch(batch.finalize());
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

/// A transaction whose first and last message are not waited for: kernels before 6.10 do not
/// acknowledge them. The library knows that too and tells them by the addresses of functions,
/// which a compiler may duplicate and a linker may fold.
struct Batch(ChainedFinal<'static>);

impl NetlinkChained for Batch {
    fn protonum(&self) -> u16 {
        self.0.protonum()
    }

    fn payload(&self) -> &[u8] {
        self.0.payload()
    }

    fn chain_len(&self) -> usize {
        self.0.chain_len()
    }

    fn get_index(&self, seq: u32) -> Option<usize> {
        NetlinkChained::get_index(&self.0, seq)
    }

    fn name(&self, index: usize) -> &'static str {
        self.0.name(index)
    }

    fn supports_ack(&self, index: usize) -> Option<bool> {
        (index < self.chain_len()).then(|| index != 0 && index + 1 != self.chain_len())
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
