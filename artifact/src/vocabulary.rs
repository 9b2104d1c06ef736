//! Vocabularies: the identifiers that own a row of an embedding table.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::key::{self, MISSING_KEY};
use crate::key_map::KeyMap;

/// The known keys of one table, in the order of their rows.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    keys: Vec<u64>,
    positions: KeyMap<u32>,
}

impl Vocabulary {
    /// A vocabulary of `keys`, in the order of their rows.
    ///
    /// # Errors
    /// A key occurs twice, is the missing key, or there are more than `u32::MAX` of them.
    pub fn new(keys: Vec<u64>) -> Result<Self, VocabularyError> {
        if keys.len() > u32::MAX as usize {
            return Err(VocabularyError::TooLarge { keys: keys.len() });
        }
        let mut positions = KeyMap::with_capacity(keys.len());
        for (position, &key) in keys.iter().enumerate() {
            if key == MISSING_KEY {
                return Err(VocabularyError::Missing { position });
            }
            *positions.entry(key) = position as u32;
            if positions.len() != position + 1 {
                return Err(VocabularyError::Duplicate { key, position });
            }
        }
        Ok(Self { keys, positions })
    }

    /// The keys, in the order of their rows.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// The number of known keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The position of `key` among the keys.
    #[inline]
    pub fn position(&self, key: u64) -> Option<u32> {
        self.positions.get(key)
    }

    /// The number of table rows: one for missing, `unseen_rows`, and one a known key.
    pub fn rows(&self, unseen_rows: usize) -> usize {
        1 + unseen_rows + self.keys.len()
    }

    /// The table row of `key`: 0 for missing, then `unseen_rows` shared by hash, then the known keys.
    #[inline]
    pub fn row(&self, key: u64, unseen_rows: u64) -> i64 {
        match self.positions.get(key) {
            Some(position) => (1 + unseen_rows + u64::from(position)) as i64,
            None if key == MISSING_KEY => 0,
            None => (1 + key::hash(key) % unseen_rows) as i64,
        }
    }

    /// This vocabulary with the keys of `newer` that it does not know appended: every known key keeps its row.
    ///
    /// # Errors
    /// The union has more than `u32::MAX` keys.
    pub fn grow(&self, newer: &Vocabulary) -> Result<Vocabulary, VocabularyError> {
        let new = newer
            .keys
            .iter()
            .copied()
            .filter(|&key| self.position(key).is_none());
        Vocabulary::new(self.keys.iter().copied().chain(new).collect())
    }
}

impl PartialEq for Vocabulary {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

/// The vocabularies of a model, by table. Clones share the keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vocabularies {
    tables: BTreeMap<String, Arc<Vocabulary>>,
}

impl Vocabularies {
    /// No vocabularies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the vocabulary of `table`.
    pub fn insert(&mut self, table: impl Into<String>, vocabulary: Vocabulary) {
        self.tables.insert(table.into(), Arc::new(vocabulary));
    }

    /// The vocabulary of `table`.
    pub fn get(&self, table: &str) -> Option<&Vocabulary> {
        self.tables.get(table).map(Arc::as_ref)
    }

    /// The vocabulary of `table`, to keep.
    pub(crate) fn shared(&self, table: &str) -> Option<Arc<Vocabulary>> {
        self.tables.get(table).cloned()
    }

    /// Every table with its vocabulary, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Vocabulary)> {
        self.tables
            .iter()
            .map(|(table, vocabulary)| (table.as_str(), vocabulary.as_ref()))
    }

    /// The number of tables.
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Whether there is no table.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The vocabularies of a warm start: for each table of `fitted`, the keys of `previous` in their
    /// places, then the keys that are new. Rows that exist keep their meaning; see
    /// [`FeatureSchema::grow`](crate::FeatureSchema::grow) for the row counts.
    ///
    /// # Errors
    /// A union has more than `u32::MAX` keys.
    pub fn grow(
        previous: &Vocabularies,
        fitted: &Vocabularies,
    ) -> Result<Vocabularies, VocabularyError> {
        let mut grown = Vocabularies::new();
        for (table, vocabulary) in fitted.iter() {
            let vocabulary = match previous.get(table) {
                Some(earlier) => earlier.grow(vocabulary)?,
                None => vocabulary.clone(),
            };
            grown.insert(table, vocabulary);
        }
        Ok(grown)
    }
}

/// Keys that are not a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// A key occurs twice.
    #[error("a vocabulary holds each key once, key {key} comes again at position {position}")]
    Duplicate {
        /// The key.
        key: u64,
        /// Where it occurs again.
        position: usize,
    },
    /// The missing key has row 0 and is not a known key.
    #[error("the missing key cannot be in a vocabulary, it stands at position {position}")]
    Missing {
        /// Where it stands.
        position: usize,
    },
    /// Too many keys.
    #[error(
        "a vocabulary holds at most {} keys, got {keys}; raise `min_count` or set `max_size`",
        u32::MAX
    )]
    TooLarge {
        /// How many.
        keys: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_missing_then_unseen_then_known() {
        let vocabulary = Vocabulary::new(vec![30, 10, 20]).unwrap();
        assert_eq!(vocabulary.rows(2), 6);
        assert_eq!(vocabulary.row(MISSING_KEY, 2), 0);
        assert_eq!([30, 10, 20].map(|key| vocabulary.row(key, 2)), [3, 4, 5]);
        for unseen in 100..200 {
            assert!((1..=2).contains(&vocabulary.row(unseen, 2)));
        }
    }

    #[test]
    fn growing_keeps_every_row_in_place() {
        let previous = Vocabulary::new(vec![30, 10]).unwrap();
        let grown = previous
            .grow(&Vocabulary::new(vec![40, 10, 20]).unwrap())
            .unwrap();
        assert_eq!(grown.keys(), [30, 10, 40, 20]);
    }

    #[test]
    fn duplicate_and_missing_keys_are_refused() {
        let duplicate = Vocabulary::new(vec![1, 2, 1]).unwrap_err();
        assert_eq!(
            duplicate,
            VocabularyError::Duplicate {
                key: 1,
                position: 2
            }
        );
        let missing = Vocabulary::new(vec![1, MISSING_KEY]).unwrap_err();
        assert_eq!(missing, VocabularyError::Missing { position: 1 });
    }
}
