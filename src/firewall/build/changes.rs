//! What leads from one table to another by elements alone.

use super::sets::Keys;
use crate::firewall::table::Table;

/// One change of the elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ElementChange {
    pub(crate) set: &'static str,
    pub(crate) remove: Vec<Vec<u8>>,
    pub(crate) add: Keys,
}

/// What leads from `old` to `new` by elements alone; `None` when chains, sets or devices differ.
///
/// An element whose end changed is removed and added in the same transaction: packets never see it missing.
pub(crate) fn element_changes(old: &Table, new: &Table) -> Option<Vec<ElementChange>> {
    if !old.same_shape(new) {
        return None;
    }
    let mut changes = Vec::new();
    for (old, new) in old.sets.iter().zip(&new.sets) {
        let (Some(before), Some(after)) = (old.listed(), new.listed()) else {
            continue;
        };
        if before == after {
            continue;
        }
        let remove: Vec<_> = before
            .iter()
            .filter(|(key, element)| after.get(*key).is_none_or(|new| new.until != element.until))
            .map(|(key, _)| key.clone())
            .collect();
        let add: Keys = after
            .iter()
            .filter(|(key, element)| before.get(*key).is_none_or(|old| old.until != element.until))
            .map(|(key, element)| (key.clone(), *element))
            .collect();
        if !remove.is_empty() || !add.is_empty() {
            changes.push(ElementChange {
                set: new.name,
                remove,
                add,
            });
        }
    }
    Some(changes)
}
