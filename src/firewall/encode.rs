//! Tables as nf_tables messages. Attribute numbers are those of `linux/netfilter/nf_tables.h`; each function writes one
//! message. Pure: bytes out, no socket.

use std::collections::BTreeMap;

use super::build::ElementChange;
use super::table::{At, Base, Chain, Each, Element, Elements, Family, Field, Load, Rule, Set, Table, Test, Then};
use crate::model::UnixTime;
use crate::netlink::{Attributes, Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};

/// Milliseconds. The kernel counts timeouts in nanoseconds of 64 bits, which overflow after some 580 years and then end
/// at once (`nf_msecs_to_jiffies64` in net/netfilter/nf_tables_api.c). What is to end later has no timeout: the
/// backstop of an agent that is dead for a century is of no use.
const LONGEST_TIMEOUT: u64 = 100 * 365 * 86_400_000;

/// `NFNL_SUBSYS_NFTABLES` in the upper byte of a message's type.
pub(crate) const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;
pub(crate) const GETTABLE: u16 = SUBSYSTEM | 1;
pub(crate) const GETCHAIN: u16 = SUBSYSTEM | 4;
pub(crate) const GETRULE: u16 = SUBSYSTEM | 7;
pub(crate) const GETSET: u16 = SUBSYSTEM | 10;
pub(crate) const GETSETELEM: u16 = SUBSYSTEM | 13;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFT_TABLE_F_OWNER`: nobody but our socket may change the table.
pub(crate) const OWNER: u32 = 2;
/// `NFT_TABLE_F_PERSIST`: and it stays when our socket goes.
pub(crate) const PERSIST: u32 = 4;

const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_GOTO: u32 = 0xffff_fffc;
const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;

/// Elements of one message: their attribute's length is a u16.
const ELEMENTS_A_MESSAGE: usize = 500;

impl Family {
    /// `NFPROTO_BRIDGE`, `NFPROTO_NETDEV`, `NFPROTO_INET`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Bridge => 7,
            Family::Netdev => 5,
            Family::Inet => 1,
        }
    }
}

impl At {
    /// `enum nf_bridge_hooks` of linux/netfilter_bridge.h, `enum nf_dev_hooks` of linux/netfilter.h.
    pub(crate) fn number(self) -> u32 {
        match self {
            At::Prerouting | At::Ingress => 0,
            At::Input | At::Egress => 1,
            At::Forward => 2,
            At::Postrouting => 4,
        }
    }
}

/// A whole transaction: all of `operations` or nothing.
pub(crate) fn batch(mut operations: Vec<Message>) -> Vec<Message> {
    if let Some(last) = operations.last_mut() {
        last.flags |= NLM_F_ACK;
    }
    let mut messages = vec![bracket(BATCH_BEGIN)];
    messages.append(&mut operations);
    messages.push(bracket(BATCH_END));
    messages
}

/// A transaction without its end: the kernel checks everything and commits nothing (`nfnetlink_rcv_batch` aborts).
pub(crate) fn rehearsal(operations: Vec<Message>) -> Vec<Message> {
    let mut messages = batch(operations);
    messages.pop();
    messages
}

fn bracket(kind: u16) -> Message {
    Message {
        kind,
        flags: 0,
        body: Attributes::netfilter(0, 10).0,
        what: "the batch".to_owned(),
    }
}

/// The messages that create `table` and everything in it, given that no table of that name exists.
pub(crate) fn create(table: &Table, flags: u32, now: UnixTime) -> Vec<Message> {
    let mut messages = vec![new_table(table.family, table.name, flags)];
    for (id, set) in (1..).zip(&table.sets) {
        messages.push(new_set(table, set, id));
        if let Some(elements) = set.listed() {
            messages.extend(add_elements(
                table.family,
                table.name,
                set.name,
                set.each,
                elements,
                now,
            ));
        }
    }
    for chain in &table.chains {
        messages.push(new_chain(table, chain));
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            messages.push(new_rule(table, chain, rule));
        }
    }
    messages
}

/// The message that makes a table, or takes over an orphaned one with the same flags.
pub(crate) fn new_table(family: Family, name: &str, flags: u32) -> Message {
    let mut body = Attributes::netfilter(family.number(), 0);
    body.text(1, name).be32(2, flags);
    Message {
        kind: NEWTABLE,
        flags: NLM_F_CREATE,
        body: body.0,
        what: format!("table {family} {name}"),
    }
}

/// The message that removes a table with everything in it.
pub(crate) fn delete_table(family: Family, name: &str) -> Message {
    let mut body = Attributes::netfilter(family.number(), 0);
    body.text(1, name);
    Message {
        kind: DELTABLE,
        flags: 0,
        body: body.0,
        what: format!("delete table {family} {name}"),
    }
}

/// The messages of one change of elements.
pub(crate) fn change(table: &Table, change: &ElementChange, now: UnixTime) -> Vec<Message> {
    let mut messages = Vec::new();
    for keys in change.remove.chunks(ELEMENTS_A_MESSAGE) {
        let mut body = Attributes::netfilter(table.family.number(), 0);
        body.text(1, table.name).text(2, change.set).nest(3, |list| {
            for key in keys {
                list.nest(1, |element| {
                    element.nest(1, |data| {
                        data.bytes(1, key);
                    });
                });
            }
        });
        let what = format!("delete element {} {} {}", table.family, table.name, change.set);
        messages.push(Message {
            kind: DELSETELEM,
            flags: 0,
            body: body.0,
            what,
        });
    }
    let each = table.set(change.set).map_or(Each::Nothing, |set| set.each);
    messages.extend(add_elements(
        table.family,
        table.name,
        change.set,
        each,
        &change.add,
        now,
    ));
    messages
}

fn add_elements(
    family: Family,
    table: &str,
    set: &str,
    each: Each,
    elements: &BTreeMap<Vec<u8>, Element>,
    now: UnixTime,
) -> Vec<Message> {
    let elements: Vec<_> = elements.iter().collect();
    let chunks = elements.chunks(ELEMENTS_A_MESSAGE);
    chunks
        .map(|chunk| {
            let mut body = Attributes::netfilter(family.number(), 0);
            body.text(1, table).text(2, set).nest(3, |list| {
                for (key, element) in chunk {
                    list.nest(1, |item| {
                        item.nest(1, |data| {
                            data.bytes(1, key);
                        });
                        let left = element.until.map(|until| until.0.saturating_sub(now.0).max(1));
                        if let Some(left) = left.filter(|left| *left <= LONGEST_TIMEOUT) {
                            item.be64(4, left);
                        }
                        if let (Each::Counter, Some(counted)) = (each, element.counted) {
                            item.nest(7, |expression| counter(expression, Some(counted)));
                        }
                    });
                }
            });
            let what = format!("add element {family} {table} {set}");
            Message {
                kind: NEWSETELEM,
                flags: NLM_F_CREATE,
                body: body.0,
                what,
            }
        })
        .collect()
}

fn new_set(table: &Table, set: &Set, id: u32) -> Message {
    let mut body = Attributes::netfilter(table.family.number(), 0);
    let flags = set_flags(set);
    body.text(1, table.name)
        .text(2, set.name)
        .be32(3, flags)
        .be32(4, set.key.number())
        .be32(5, set.key.length());
    if let Elements::Seen { size, timeout_ms } = set.elements {
        body.nest(9, |description| {
            description.be32(1, size);
        });
        if timeout_ms > 0 {
            body.be64(11, timeout_ms);
        }
    }
    body.be32(10, id);
    match set.each {
        Each::Nothing | Each::Timeout => {}
        Each::Counter => {
            body.nest(17, |expression| counter(expression, None));
        }
        Each::Limit { per_second, burst } => {
            body.nest(17, |expression| limit(expression, per_second, burst));
        }
    }
    let what = format!("set {} {} {}", table.family, table.name, set.name);
    Message {
        kind: NEWSET,
        flags: NLM_F_CREATE,
        body: body.0,
        what,
    }
}

/// `enum nft_set_flags` of a set.
pub(crate) fn set_flags(set: &Set) -> u32 {
    let timeout = match (&set.elements, set.each) {
        (Elements::Seen { timeout_ms, .. }, _) if *timeout_ms > 0 => SET_TIMEOUT,
        (_, Each::Timeout) => SET_TIMEOUT,
        _ => 0,
    };
    let dynamic = if matches!(set.elements, Elements::Seen { .. }) {
        SET_EVAL
    } else {
        0
    };
    timeout | dynamic
}

fn new_chain(table: &Table, chain: &Chain) -> Message {
    let mut body = Attributes::netfilter(table.family.number(), 0);
    body.text(1, table.name).text(3, chain.name);
    if let Some(hook) = &chain.hook {
        body.nest(4, |attributes| {
            attributes
                .be32(1, hook.at.number())
                .bytes(2, &hook.priority.to_be_bytes());
            if !hook.devices.is_empty() {
                attributes.nest(4, |devices| {
                    for device in &hook.devices {
                        devices.text(1, device);
                    }
                });
            }
        });
        body.be32(5, NF_ACCEPT).text(7, "filter");
    }
    let what = format!("chain {} {} {}", table.family, table.name, chain.name);
    Message {
        kind: NEWCHAIN,
        flags: NLM_F_CREATE,
        body: body.0,
        what,
    }
}

fn new_rule(table: &Table, chain: &Chain, rule: &Rule) -> Message {
    let mut body = Attributes::netfilter(table.family.number(), 0);
    body.text(1, table.name).text(2, chain.name);
    body.0.extend(expressions(rule));
    let what = format!("rule {} {} {}: {rule}", table.family, table.name, chain.name);
    Message {
        kind: NEWRULE,
        flags: NLM_F_CREATE | NLM_F_APPEND,
        body: body.0,
        what,
    }
}

/// The rule's `NFTA_RULE_EXPRESSIONS` attribute.
pub(crate) fn expressions(rule: &Rule) -> Vec<u8> {
    let mut list = Attributes::default();
    list.nest(4, |list| {
        for test in &rule.when {
            write_test(list, test);
        }
        match &rule.then {
            Then::Continue => {}
            Then::Accept => verdict(list, NF_ACCEPT, None),
            Then::Drop => verdict(list, NF_DROP, None),
            Then::Goto(chain) => verdict(list, NFT_GOTO, Some(chain)),
            Then::Count => {
                list.nest(1, |expression| counter(expression, None));
            }
            Then::Update(field, set) => update(list, *field, set),
            Then::UpdateAndAccept(field, set) => {
                update(list, *field, set);
                verdict(list, NF_ACCEPT, None);
            }
        }
    });
    list.0
}

fn write_test(list: &mut Attributes, test: &Test) {
    match test {
        Test::Is(field, value) => {
            load(list, *field);
            compare(list, false, value);
        }
        Test::AnyBit(field, mask) => {
            load(list, *field);
            bitwise(list, mask);
            compare(list, true, &vec![0; mask.len()]);
        }
        Test::Masked(field, mask, value) => {
            load(list, *field);
            bitwise(list, mask);
            compare(list, false, value);
        }
        Test::In(field, set) => {
            load(list, *field);
            expression(list, "lookup", |data| {
                data.text(1, set).be32(2, REGISTER).be32(5, 0);
            });
        }
    }
}

fn expression(list: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    list.nest(1, |item| {
        item.text(1, name).nest(2, data);
    });
}

fn load(list: &mut Attributes, field: Field) {
    match field.load().0 {
        Load::Payload { from, offset, length } => expression(list, "payload", |data| {
            let base = match from {
                Base::Link => 0,
                Base::Network => 1,
                Base::Transport => 2,
            };
            data.be32(1, REGISTER).be32(2, base).be32(3, offset).be32(4, length);
        }),
        Load::Meta { key, .. } => expression(list, "meta", |data| {
            data.be32(2, key).be32(1, REGISTER);
        }),
        Load::Connection { key } => expression(list, "ct", |data| {
            data.be32(2, key).be32(1, REGISTER);
        }),
    }
}

fn compare(list: &mut Attributes, differs: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        data.be32(1, REGISTER).be32(2, u32::from(differs)).nest(3, |inner| {
            inner.bytes(1, value);
        });
    });
}

fn bitwise(list: &mut Attributes, mask: &[u8]) {
    expression(list, "bitwise", |data| {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        data.be32(1, REGISTER).be32(2, REGISTER).be32(3, length).be32(6, 0);
        data.nest(4, |inner| {
            inner.bytes(1, mask);
        });
        data.nest(5, |inner| {
            inner.bytes(1, &vec![0; mask.len()]);
        });
    });
}

fn verdict(list: &mut Attributes, code: u32, chain: Option<&str>) {
    expression(list, "immediate", |data| {
        data.be32(1, VERDICT_REGISTER).nest(2, |value| {
            value.nest(2, |verdict| {
                verdict.be32(1, code);
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    });
}

fn update(list: &mut Attributes, field: Field, set: &str) {
    const NFT_DYNSET_OP_UPDATE: u32 = 1;
    load(list, field);
    expression(list, "dynset", |data| {
        data.text(1, set).be32(3, NFT_DYNSET_OP_UPDATE).be32(4, REGISTER);
        data.nest(7, |inner| counter(inner, None));
    });
}

/// A counter expression, starting at what was counted before.
fn counter(item: &mut Attributes, counted: Option<(u64, u64)>) {
    item.text(1, "counter").nest(2, |data| {
        if let Some((packets, bytes)) = counted {
            data.be64(1, bytes).be64(2, packets);
        }
    });
}

fn limit(item: &mut Attributes, per_second: u64, burst: u32) {
    item.text(1, "limit").nest(2, |data| {
        data.be64(1, per_second).be64(2, 1).be32(3, burst).be32(4, 0).be32(5, 0);
    });
}

/// A request for everything of one kind in a family, of one table (and set) where the kernel can filter.
pub(crate) fn dump(kind: u16, family: Family, table: Option<&str>, set: Option<&str>) -> Message {
    let mut body = Attributes::netfilter(family.number(), 0);
    if let Some(table) = table {
        body.text(1, table);
    }
    if let Some(set) = set {
        body.text(2, set);
    }
    let what = format!(
        "dump {family} {} {}",
        table.unwrap_or_default(),
        set.unwrap_or_default()
    );
    Message {
        kind,
        flags: 0,
        body: body.0,
        what,
    }
}
