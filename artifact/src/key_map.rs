//! A hash map from keys to small values: open addressing with linear probing.
//!
//! Lookups are most of the encoder's time. A slot keeps key and value side by side, so a hit costs one
//! cache line, and the missing key, which is never stored, marks an empty slot.

use crate::key::MISSING_KEY;

#[derive(Debug, Clone, Copy)]
struct Slot<V> {
    key: u64,
    value: V,
}

/// A map from keys other than [`MISSING_KEY`] to values.
#[derive(Debug, Clone)]
pub(crate) struct KeyMap<V> {
    /// A power of two of slots, at most half of them taken.
    slots: Vec<Slot<V>>,
    len: usize,
}

impl<V: Copy + Default> KeyMap<V> {
    /// An empty map that holds `keys` keys without growing.
    pub(crate) fn with_capacity(keys: usize) -> Self {
        Self {
            slots: empty_slots((keys * 2).next_power_of_two().max(16)),
            len: 0,
        }
    }

    /// The number of keys.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of `key`.
    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<V> {
        let mask = self.slots.len() - 1;
        let mut at = spread(key) & mask;
        loop {
            let slot = &self.slots[at];
            // The empty mark is tested first: a lookup of the missing key itself finds nothing.
            if slot.key == MISSING_KEY {
                return None;
            }
            if slot.key == key {
                return Some(slot.value);
            }
            at = (at + 1) & mask;
        }
    }

    /// The value of `key`, put in with the default value where it is new.
    ///
    /// The caller never passes [`MISSING_KEY`].
    pub(crate) fn entry(&mut self, key: u64) -> &mut V {
        debug_assert_ne!(key, MISSING_KEY);
        if (self.len + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let at = position_of(&self.slots, key);
        let slot = &mut self.slots[at];
        if slot.key == MISSING_KEY {
            slot.key = key;
            self.len += 1;
        }
        &mut slot.value
    }

    /// Every key with its value, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, V)> + '_ {
        self.slots
            .iter()
            .filter(|slot| slot.key != MISSING_KEY)
            .map(|slot| (slot.key, slot.value))
    }

    fn grow(&mut self) {
        let mut slots = empty_slots(self.slots.len() * 2);
        for slot in self.slots.iter().filter(|slot| slot.key != MISSING_KEY) {
            let at = position_of(&slots, slot.key);
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

fn empty_slots<V: Copy + Default>(count: usize) -> Vec<Slot<V>> {
    vec![
        Slot {
            key: MISSING_KEY,
            value: V::default()
        };
        count
    ]
}

/// The slot that holds `key`, or the empty one where it belongs.
fn position_of<V>(slots: &[Slot<V>], key: u64) -> usize {
    let mask = slots.len() - 1;
    let mut at = spread(key) & mask;
    while slots[at].key != MISSING_KEY && slots[at].key != key {
        at = (at + 1) & mask;
    }
    at
}

/// One multiplication, its high half folded onto the low one: enough for consecutive identifiers and for hashes.
#[inline]
fn spread(key: u64) -> usize {
    let product = u128::from(key) * 0x9e37_79b9_7f4a_7c15;
    ((product as u64) ^ ((product >> 64) as u64)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_like_a_standard_map(keys in prop::collection::vec(0u64..300, 0..2000), stride in 1u64..1 << 50) {
            let mut expected = HashMap::new();
            let mut map = KeyMap::<u64>::with_capacity(0);
            for key in keys.iter().map(|key| key.wrapping_mul(stride)).filter(|&key| key != MISSING_KEY) {
                *expected.entry(key).or_insert(0) += 1;
                *map.entry(key) += 1;
            }
            prop_assert_eq!(map.len(), expected.len());
            prop_assert_eq!(map.iter().collect::<HashMap<_, _>>(), expected);
        }
    }

    #[test]
    fn absent_and_missing_keys_are_not_found() {
        let mut map = KeyMap::<u32>::with_capacity(4);
        *map.entry(7) = 3;
        assert_eq!(map.get(7), Some(3));
        assert_eq!(map.get(8), None);
        assert_eq!(map.get(MISSING_KEY), None);
    }
}
