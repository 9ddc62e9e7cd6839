//! A set of port numbers that stays small however many there are.

use std::collections::BTreeSet;

/// Up to here ports are held one by one.
const FEW: usize = 512;
/// Words of one bit a port: 8 KiB.
const WORDS: usize = 1_024;

/// Port numbers: a short list while they are few, a bit for each of the 65,536 (8 KiB) beyond that.
#[derive(Debug, Clone, Default)]
pub struct PortSet {
    few: BTreeSet<u16>,
    bits: Vec<u64>,
}

impl PortSet {
    /// Notes a port.
    pub fn insert(&mut self, port: u16) {
        if self.bits.is_empty() {
            self.few.insert(port);
            if self.few.len() > FEW {
                self.bits = vec![0; WORDS];
                for port in std::mem::take(&mut self.few) {
                    self.set(port);
                }
            }
        } else {
            self.set(port);
        }
    }

    fn set(&mut self, port: u16) {
        if let Some(word) = self.bits.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// Whether the port was noted.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let bit = |word: &u64| word & (1 << (port % 64)) != 0;
        self.few.contains(&port) || self.bits.get(usize::from(port / 64)).is_some_and(bit)
    }

    /// The ports in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let many = (0..=u16::MAX).filter(|port| !self.bits.is_empty() && self.contains(*port));
        self.few.iter().copied().chain(many)
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::default();
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

impl PartialEq for PortSet {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for PortSet {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_ports_there_are_fit() {
        let all: PortSet = (0..=u16::MAX).rev().collect();
        assert!(all.iter().eq(0..=u16::MAX));
        assert_eq!((all.few.len(), all.bits.len()), (0, WORDS));
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_noted(ports in prop::collection::vec(any::<u16>(), 0..1_500), other: u16) {
            let set: PortSet = ports.iter().copied().collect();
            let model: BTreeSet<u16> = ports.into_iter().collect();
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.contains(other), model.contains(&other));
        }
    }
}
