//! Trailing aggregates: what was known of a key strictly before each row.
//!
//! ```text
//! row ─► settled counts of its keys ─► columns;   the row itself waits until a later time comes
//! ```
//!
//! Rows of equal times do not see one another. Without a time, each row sees all rows before it.
//! The final counts are saved as `history.bin` (`docs/formats/history.md`), so that later data
//! continues from them.

mod file;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

use streamrec_artifact::RawColumn;
use streamrec_artifact::key::MISSING_KEY;
use xxhash_rust::xxh3::xxh3_64;

use super::{Block, Column, Error, Result, TrailingSpec};

/// The name of the file in a dataset's folder.
pub const HISTORY_FILE: &str = "history.bin";

/// The key of several keys together: one key is itself, several are XXH3-64 of their 8-byte
/// little-endian forms in order.
pub fn combined_key(keys: &[u64]) -> u64 {
    match keys {
        [key] => *key,
        _ => {
            let mut bytes = [0; 64];
            if keys.len() <= 8 {
                for (to, key) in bytes.chunks_exact_mut(8).zip(keys) {
                    to.copy_from_slice(&key.to_le_bytes());
                }
                xxh3_64(&bytes[..8 * keys.len()])
            } else {
                xxh3_64(
                    &keys
                        .iter()
                        .flat_map(|key| key.to_le_bytes())
                        .collect::<Vec<_>>(),
                )
            }
        }
    }
}

/// Spreads keys, which are integers as they come or hashes already, over a hash map.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        // Both halves of a product with an odd constant: every bit of the key reaches every bit.
        let product = u128::from(key ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// A hash map by key.
pub(super) type KeyMap<V> = HashMap<u64, V, BuildHasherDefault<KeyHasher>>;

/// The counts of all combinations of the same key columns.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// The key columns.
    pub(super) keys: Vec<String>,
    /// The labels that are summed, in order.
    pub(super) labels: Vec<String>,
    /// The place of each combined key.
    pub(super) places: KeyMap<u32>,
    /// For each place the count and the sums, `[places, 1 + labels]`, of all settled rows.
    pub(super) settled: Vec<f64>,
    /// Likewise of the rows at `pending_time`.
    pending: Vec<f64>,
    pending_time: Vec<i64>,
}

impl Group {
    pub(super) fn width(&self) -> usize {
        1 + self.labels.len()
    }
}

/// Counts and label sums by key, over all rows so far.
#[derive(Debug, Clone, Default)]
pub struct TrailingHistory {
    pub(super) groups: Vec<Group>,
    /// The latest time of all counted rows, in milliseconds.
    pub(super) last_ms: Option<i64>,
}

/// Finds one aggregate in a [`TrailingHistory`].
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    group: &'a Group,
    /// 0 is the count, then the sums.
    place: usize,
}

impl Lookup<'_> {
    /// The aggregate over all rows of the history with these keys, 0 for keys it has not seen.
    /// NaN where a key is missing.
    pub fn value(&self, keys: &[u64]) -> f64 {
        if keys.contains(&MISSING_KEY) {
            return f64::NAN;
        }
        let place = self.group.places.get(&combined_key(keys));
        place.map_or(0.0, |place| {
            self.group.settled[*place as usize * self.group.width() + self.place]
        })
    }
}

impl TrailingHistory {
    /// An empty history with what `specs` need.
    pub fn new(specs: &[TrailingSpec]) -> Self {
        let mut history = Self::default();
        for spec in specs {
            let at = history
                .groups
                .iter()
                .position(|group| group.keys == spec.keys);
            let at = at.unwrap_or_else(|| {
                history.groups.push(Group {
                    keys: spec.keys.clone(),
                    ..Group::default()
                });
                history.groups.len() - 1
            });
            let group = &mut history.groups[at];
            group.labels.extend(
                spec.label
                    .iter()
                    .filter(|label| !group.labels.contains(label))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
        history
    }

    /// Reads a `history.bin`; with it comes the identity of its contents, as [`Self::write`] gave it.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what was written.
    pub fn read(path: &Path) -> Result<(Self, String)> {
        file::read(path)
    }

    /// Writes a `history.bin` and syncs it; returns the identity of its contents, 16 hexadecimal
    /// digits. Entries are in the order of their keys, so equal histories are equal files.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write(&self, path: &Path) -> Result<String> {
        file::write(self, path)
    }

    /// The latest time of all counted rows, in milliseconds; none without times.
    pub fn last_ms(&self) -> Option<i64> {
        self.last_ms
    }

    /// The aggregate that `spec` asks for; none if this history does not keep it.
    pub fn lookup(&self, spec: &TrailingSpec) -> Option<Lookup<'_>> {
        let group = self.groups.iter().find(|group| group.keys == spec.keys)?;
        let place = match &spec.label {
            None => 0,
            Some(label) => 1 + group.labels.iter().position(|found| found == label)?,
        };
        Some(Lookup { group, place })
    }

    /// Moves everything that waits for a later time into the settled counts.
    pub(super) fn settle(&mut self) {
        self.groups.iter_mut().for_each(Group::settle);
    }
}

/// Fills the trailing columns of blocks whose rows come in the order of time.
#[derive(Debug)]
pub struct TrailingCounter {
    history: TrailingHistory,
    groups: Vec<GroupColumns>,
    time: Option<usize>,
    /// The number of columns before the trailing ones.
    base: usize,
    keys: Vec<u64>,
    /// Whether a row came that is not counted.
    frozen: bool,
}

/// Where a group reads and writes.
#[derive(Debug, Default)]
struct GroupColumns {
    keys: Vec<usize>,
    labels: Vec<usize>,
    /// Which of the count and the sums goes to which trailing column.
    outputs: Vec<(usize, usize)>,
}

impl TrailingCounter {
    /// `columns` come first in a block, then a dense column for each of `specs`. Counting goes on
    /// from `base`, if given; aggregates that it lacks are an error.
    ///
    /// # Errors
    /// Columns that do not exist or are of the wrong kind; aggregates that `base` lacks.
    pub fn new(
        columns: &[Column],
        time: Option<usize>,
        specs: &[TrailingSpec],
        base: Option<TrailingHistory>,
    ) -> Result<Self> {
        let mut history = base.unwrap_or_else(|| TrailingHistory::new(specs));
        let mut groups: Vec<_> = history
            .groups
            .iter()
            .map(|_| GroupColumns::default())
            .collect();
        let place = |name: &String| {
            columns
                .iter()
                .position(|column| &column.name == name)
                .ok_or_else(|| {
                    Error::settings(
                        "trailing aggregates",
                        format!("there is no column `{name}`"),
                    )
                })
        };
        for (output, spec) in specs.iter().enumerate() {
            let missing = || {
                let what = spec
                    .label
                    .as_ref()
                    .map_or_else(|| "rows".to_owned(), |label| format!("`{label}`"));
                let problem = format!(
                    "the history keeps no count of {what} by {}; import the earlier data with the same schema",
                    spec.keys.join(" and ")
                );
                Error::settings("trailing aggregates", problem)
            };
            let at = history
                .groups
                .iter()
                .position(|group| group.keys == spec.keys)
                .ok_or_else(missing)?;
            let group = &history.groups[at];
            let sum = match &spec.label {
                None => 0,
                Some(label) => {
                    1 + group
                        .labels
                        .iter()
                        .position(|l| l == label)
                        .ok_or_else(missing)?
                }
            };
            groups[at].outputs.push((sum, output));
        }
        for (group, found) in history.groups.iter().zip(&mut groups) {
            found.keys = group.keys.iter().map(place).collect::<Result<_>>()?;
            found.labels = group.labels.iter().map(place).collect::<Result<_>>()?;
        }
        for group in &mut history.groups {
            group.pending = vec![0.0; group.settled.len()];
            group.pending_time = vec![i64::MIN; group.places.len()];
        }
        Ok(Self {
            history,
            groups,
            time,
            base: columns.len(),
            keys: Vec::new(),
            frozen: false,
        })
    }

    /// Fills the trailing columns of all rows of `block`, and counts the first `counted` of them.
    ///
    /// The others know what the counted ones leave behind. Their times are later, and no row is
    /// counted after them: what they know is frozen.
    ///
    /// # Errors
    /// More distinct keys than 32 bits can number.
    pub fn fill(&mut self, block: &mut Block, counted: usize) -> Result<()> {
        let rows = block.rows;
        let (columns, trailing) = block.columns.split_at_mut(self.base);
        let times = match self.time.map(|time| &columns[time]) {
            Some(RawColumn::Time(times)) => Some(&times[..]),
            _ => None,
        };
        let freeze = counted < rows && !self.frozen;
        for (group, places) in self.history.groups.iter_mut().zip(&self.groups) {
            for row in 0..rows {
                if row == counted && freeze {
                    group.settle();
                }
                self.keys.clear();
                let keys = places.keys.iter();
                self.keys
                    .extend(keys.map(|&column| key_at(&columns[column], row)));
                let time = times.map(|times| times[row]);
                let slot = if self.keys.contains(&MISSING_KEY) {
                    Slot::Missing
                } else if row < counted {
                    Slot::At(group.slot(combined_key(&self.keys), time)?)
                } else {
                    group.known(combined_key(&self.keys))
                };
                for &(sum, output) in &places.outputs {
                    if let RawColumn::Dense(values) = &mut trailing[output] {
                        values.push(group.value(slot, sum));
                    }
                }
                if let Slot::At(slot) = slot
                    && row < counted
                {
                    let labels = places.labels.iter();
                    let labels = labels.map(|&column| number_at(&columns[column], row));
                    group.count(slot, labels, time.is_some());
                }
            }
        }
        self.frozen |= freeze;
        if let Some(last) = times.and_then(|times| times[..counted].iter().max()) {
            self.history.last_ms = self.history.last_ms.max(Some(*last));
        }
        Ok(())
    }

    /// The history with all rows that were counted.
    pub fn finish(mut self) -> TrailingHistory {
        self.history.settle();
        self.history
    }
}

/// Where the aggregates of a row begin.
#[derive(Clone, Copy)]
enum Slot {
    At(usize),
    /// No row with its keys was counted.
    Unseen,
    /// It lacks a key.
    Missing,
}

impl Group {
    fn settle(&mut self) {
        for (settled, pending) in self.settled.iter_mut().zip(&mut self.pending) {
            *settled += std::mem::take(pending);
        }
    }

    /// Where the aggregates of `key` begin, if it has any.
    fn known(&self, key: u64) -> Slot {
        let place = self.places.get(&key);
        place.map_or(Slot::Unseen, |place| {
            Slot::At(*place as usize * self.width())
        })
    }

    fn value(&self, slot: Slot, sum: usize) -> f32 {
        match slot {
            Slot::At(slot) => self.settled[slot + sum] as f32,
            Slot::Unseen => 0.0,
            Slot::Missing => f32::NAN,
        }
    }

    /// Where the aggregates of `key` begin, with everything before `time` settled.
    fn slot(&mut self, key: u64, time: Option<i64>) -> Result<usize> {
        let width = self.width();
        let next = self.places.len();
        let place = match self.places.get(&key) {
            Some(place) => *place as usize,
            None => {
                let place = u32::try_from(next).map_err(|_| {
                    let problem = format!(
                        "more than {} combinations of {}",
                        u32::MAX,
                        self.keys.join(" and ")
                    );
                    Error::settings("trailing aggregates", problem)
                })?;
                self.places.insert(key, place);
                self.settled.resize(self.settled.len() + width, 0.0);
                if time.is_some() {
                    self.pending.resize(self.settled.len(), 0.0);
                    self.pending_time.resize(next + 1, i64::MIN);
                }
                next
            }
        };
        let slot = place * width;
        if let Some(time) = time
            && self.pending_time[place] != time
        {
            self.pending_time[place] = time;
            for i in slot..slot + width {
                self.settled[i] += std::mem::take(&mut self.pending[i]);
            }
        }
        Ok(slot)
    }

    fn count(&mut self, slot: usize, labels: impl Iterator<Item = f32>, timed: bool) {
        let counts = if timed {
            &mut self.pending
        } else {
            &mut self.settled
        };
        counts[slot] += 1.0;
        for (i, label) in labels.enumerate() {
            // A missing outcome adds nothing.
            if !label.is_nan() {
                counts[slot + 1 + i] += f64::from(label);
            }
        }
    }
}

fn key_at(column: &RawColumn, row: usize) -> u64 {
    match column {
        RawColumn::Key(keys) => keys[row],
        _ => MISSING_KEY,
    }
}

fn number_at(column: &RawColumn, row: usize) -> f32 {
    match column {
        RawColumn::Dense(values) => values[row],
        _ => f32::NAN,
    }
}

#[cfg(test)]
mod tests;
