//! Rows whose values occur more than once, in bounded memory.
//!
//! A row is its number and 128 bits of XXH3 of its values, which no two of 10^9 different values share but once
//! in 10^20 tables. Rows are parted by their first bits; when they pass the budget, parts go to temporary
//! files, and are sorted one after the other at the end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rayon::prelude::*;

use super::row_set::RowSet;

const PARTS: usize = 256;
const ENTRY_BYTES: usize = 24;

/// Finds the rows that are not the only one with their values.
#[derive(Debug)]
pub(super) struct Duplicates {
    budget: usize,
    held: usize,
    parts: Vec<Part>,
}

#[derive(Debug, Default)]
struct Part {
    entries: Vec<(u128, u64)>,
    file: Option<File>,
}

impl Duplicates {
    /// Holds up to `budget` rows in memory before it writes to the disk.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget: budget.max(1),
            held: 0,
            parts: (0..PARTS).map(|_| Part::default()).collect(),
        }
    }

    pub(super) fn add(&mut self, entries: &[(u128, u64)]) -> io::Result<()> {
        for &(hash, row) in entries {
            self.parts[(hash >> 120) as usize].entries.push((hash, row));
        }
        self.held += entries.len();
        if self.held > self.budget {
            self.parts.iter_mut().try_for_each(Part::spill)?;
            self.held = 0;
        }
        Ok(())
    }

    /// The rows.
    pub(super) fn finish(self) -> io::Result<RowSet> {
        let parts: Vec<Vec<u64>> = self
            .parts
            .into_par_iter()
            .map(Part::duplicates)
            .collect::<io::Result<_>>()?;
        let mut found = RowSet::default();
        parts
            .into_iter()
            .flatten()
            .for_each(|row| found.insert(row));
        Ok(found)
    }
}

impl Part {
    fn spill(&mut self) -> io::Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (hash, row) in self.entries.drain(..) {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&row.to_le_bytes());
        }
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        match &mut self.file {
            Some(file) => file.write_all(&bytes),
            None => Ok(()),
        }
    }

    /// The rows that are not the only one with their values.
    fn duplicates(self) -> io::Result<Vec<u64>> {
        let mut entries = self.all()?;
        entries.sort_unstable();
        let equal = entries.chunk_by(|a, b| a.0 == b.0);
        let repeated = equal.filter(|equal| equal.len() > 1).flatten();
        Ok(repeated.map(|&(_, row)| row).collect())
    }

    fn all(mut self) -> io::Result<Vec<(u128, u64)>> {
        let Some(mut file) = self.file.take() else {
            return Ok(self.entries);
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        for entry in bytes.chunks_exact(ENTRY_BYTES) {
            let (mut hash, mut row) = ([0; 16], [0; 8]);
            hash.copy_from_slice(&entry[..16]);
            row.copy_from_slice(&entry[16..]);
            self.entries
                .push((u128::from_le_bytes(hash), u64::from_le_bytes(row)));
        }
        Ok(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    #[test]
    fn duplicates_are_found_in_memory_and_on_disk() {
        for budget in [1_000_000, 100] {
            let mut duplicates = Duplicates::new(budget);
            for row in 0..10_000u64 {
                // 7 and 7000 are equal, and all above 9990.
                let value = match row {
                    7000 => 7,
                    9991.. => 9990,
                    row => row,
                };
                let hash = xxh3_128(&value.to_le_bytes());
                duplicates.add(&[(hash, row)]).unwrap();
            }
            let found: Vec<u64> = duplicates.finish().unwrap().iter().collect();
            let expected: Vec<u64> = [7, 7000].into_iter().chain(9990..10_000).collect();
            assert_eq!(found, expected, "budget {budget}");
        }
    }
}
