//! A chunk of whole lines without quotes into a block of rows, column by column.

use super::cell::Fault;
use super::plan::{Plan, Target};
use super::text::{RECORD_BYTES_MAX, RecordFault};
use super::value::truncate;
use crate::data::Block;
use crate::data::row_copy::append_range;

/// Eight times the same byte.
const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// A record that is left out.
#[derive(Debug, PartialEq)]
pub(super) struct Rejection {
    /// Its line in the chunk, from 0.
    pub(super) line: u64,
    /// Its number among the chunk's records, from 0.
    pub(super) record: u64,
    pub(super) reason: String,
    /// The field that does not fit.
    pub(super) got: Option<Vec<u8>>,
}

/// What a chunk came to.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) block: Block,
    pub(super) lines: u64,
    /// Lines that are not empty.
    pub(super) records: u64,
    /// In the order of the lines.
    pub(super) rejections: Vec<Rejection>,
}

/// Parses chunks of one plan; each thread has its own.
pub(super) struct LineParser<'a> {
    plan: &'a Plan,
    /// Fields of a record.
    fields: usize,
    delimiter: u8,
    /// `[rows, fields + 1]`: where each field begins, and one behind the end of the last.
    bounds: Vec<u32>,
    /// Line and record of each row.
    places: Vec<(u32, u32)>,
    misfits: Vec<Misfit>,
}

/// A value that does not fit.
struct Misfit {
    row: usize,
    /// Its place among the fills, which are tried in order.
    fill: usize,
    fault: Fault,
}

/// One field of all rows.
pub(super) struct FieldOfRows<'a> {
    data: &'a [u8],
    bounds: &'a [u32],
    stride: usize,
    place: usize,
    /// Whether the whole chunk is ASCII, and so UTF-8.
    pub(super) ascii: bool,
}

impl<'a> FieldOfRows<'a> {
    /// The field of each row.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let (data, place) = (self.data, self.place);
        self.bounds.chunks_exact(self.stride).map(move |row| {
            // The delimiter stands between a field and the next one.
            &data[row[place] as usize..row[place + 1] as usize - 1]
        })
    }
}

impl<'a> LineParser<'a> {
    pub(super) fn new(plan: &'a Plan, fields: usize, delimiter: u8) -> Self {
        Self {
            plan,
            fields,
            delimiter,
            bounds: Vec::new(),
            places: Vec::new(),
            misfits: Vec::new(),
        }
    }

    /// Parses `data`, whole lines, into the memory of `block`.
    pub(super) fn parse(&mut self, data: &[u8], mut block: Block) -> Parsed {
        block.clear();
        let mut parsed = Parsed {
            block,
            ..Parsed::default()
        };
        self.scan(data, &mut parsed);
        self.misfits.clear();
        let ascii = data.is_ascii();
        for (number, fill) in self.plan.fills.iter().enumerate() {
            // Plans with others are parsed row by row.
            let Target::Column(column) = fill.target else {
                continue;
            };
            let fields = FieldOfRows {
                data,
                bounds: &self.bounds,
                stride: self.fields + 1,
                place: self.plan.wanted[fill.field],
                ascii,
            };
            let misfits = &mut self.misfits;
            fill.conversion.push_fields(
                &fields,
                &mut parsed.block.columns[column],
                |row, fault| {
                    misfits.push(Misfit {
                        row,
                        fill: number,
                        fault,
                    });
                },
            );
        }
        parsed.block.rows = self.places.len();
        if !self.misfits.is_empty() {
            self.leave_out(data, &mut parsed);
        }
        parsed.rejections.sort_by_key(|rejection| rejection.record);
        parsed
    }

    /// Finds every field of the records that have as many as they should.
    fn scan(&mut self, data: &[u8], parsed: &mut Parsed) {
        self.bounds.clear();
        self.places.clear();
        let (delimiter, newline) = (ONES * u64::from(self.delimiter), ONES * u64::from(b'\n'));
        let mut begun = Begun::default();
        self.bounds.push(0);
        let (words, tail) = data.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            let mut found = equal_bytes(word, delimiter) | equal_bytes(word, newline);
            while found != 0 {
                let byte = (found.trailing_zeros() / 8) as usize;
                found &= found - 1;
                self.boundary(data, 8 * at + byte, &mut begun, parsed);
            }
        }
        let first = data.len() - tail.len();
        for (at, &byte) in tail.iter().enumerate() {
            if byte == self.delimiter || byte == b'\n' {
                self.boundary(data, first + at, &mut begun, parsed);
            }
        }
        // The begin of a row that does not come.
        self.bounds.truncate(begun.bound);
    }

    /// A field ends at `at`, and perhaps a line.
    #[inline(always)]
    fn boundary(&mut self, data: &[u8], at: usize, begun: &mut Begun, parsed: &mut Parsed) {
        if data[at] == b'\n' {
            self.end_line(data, at, begun, parsed);
        } else {
            self.bounds.push(at as u32 + 1);
        }
    }

    fn end_line(&mut self, data: &[u8], at: usize, begun: &mut Begun, parsed: &mut Parsed) {
        let start = self.bounds[begun.bound] as usize;
        let returned = at > start && data[at - 1] == b'\r';
        let end = at - usize::from(returned);
        let line = parsed.lines;
        parsed.lines += 1;
        let fields = self.bounds.len() - begun.bound;
        if end == start {
            self.bounds.truncate(begun.bound);
        } else if fields == self.fields && end - start <= RECORD_BYTES_MAX {
            self.bounds.push(end as u32 + 1);
            self.places.push((line as u32, parsed.records as u32));
            parsed.records += 1;
        } else {
            let reason = if end - start > RECORD_BYTES_MAX {
                RecordFault::TooLong.to_string()
            } else {
                format!("expected {} fields, got {fields}", self.fields)
            };
            parsed.rejections.push(Rejection {
                line,
                record: parsed.records,
                reason,
                got: None,
            });
            parsed.records += 1;
            self.bounds.truncate(begun.bound);
        }
        begun.bound = self.bounds.len();
        self.bounds.push(at as u32 + 1);
    }

    /// Takes the rows of misfits out; of several in a row, the first is told.
    #[cold]
    fn leave_out(&mut self, data: &[u8], parsed: &mut Parsed) {
        self.misfits.sort_by_key(|misfit| (misfit.row, misfit.fill));
        self.misfits.dedup_by_key(|misfit| misfit.row);
        for Misfit { row, fill, fault } in &self.misfits {
            let fill = &self.plan.fills[*fill];
            let name = &self.plan.columns[fill.target.column()].name;
            let bounds = &self.bounds[row * (self.fields + 1) + self.plan.wanted[fill.field]..];
            let (line, record) = self.places[*row];
            parsed.rejections.push(Rejection {
                line: line.into(),
                record: record.into(),
                reason: format!("column `{name}` {fault}"),
                got: Some(data[bounds[0] as usize..bounds[1] as usize - 1].to_vec()),
            });
        }
        let rows = parsed.block.rows;
        let bad = self.misfits.iter().map(|misfit| misfit.row);
        let (starts, ends) = (
            std::iter::once(0).chain(bad.clone().map(|row| row + 1)),
            bad.chain(std::iter::once(rows)),
        );
        let good: Vec<_> = starts.zip(ends).map(|(start, end)| start..end).collect();
        for column in &mut parsed.block.columns {
            let all = column.clone();
            truncate(column, 0);
            for range in &good {
                // A chunk's rows hold far fewer than 2^32 keys.
                let _ = append_range(column, &all, range.clone());
            }
        }
        parsed.block.rows = rows - self.misfits.len();
    }
}

/// The line that is being scanned.
#[derive(Default)]
struct Begun {
    /// The place among the bounds of its first field.
    bound: usize,
}

/// The top bit of every byte of `word` that is the one in `bytes`.
#[inline(always)]
fn equal_bytes(word: u64, bytes: u64) -> u64 {
    let difference = word ^ bytes;
    // Carries stay inside their bytes, so every byte is told exactly.
    let low = (difference & LOW_BITS) + LOW_BITS;
    !(low | difference | LOW_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_bytes_are_found_exactly(bytes: [u8; 8], wanted: u8) {
            let found = equal_bytes(u64::from_le_bytes(bytes), ONES * u64::from(wanted));
            let expected = bytes.map(|byte| if byte == wanted { 0x80 } else { 0 });
            prop_assert_eq!(found, u64::from_le_bytes(expected));
        }
    }
}
