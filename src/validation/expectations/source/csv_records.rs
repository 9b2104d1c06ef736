//! Where records of CSV end: text is cut there, so that threads parse its pieces apart.
//!
//! A record ends at a line's end that stands in no quotes, and quotes count only where they begin a field, as in the
//! `csv` crate, which parses the pieces (`csv-core`'s states, of which the end of a record needs four). Empty lines are no
//! records.

use std::io::{self, Read};

/// Bytes of a chunk, but for one longer record.
const CHUNK_BYTES: usize = 1 << 21;
/// A longer record is a quote that nobody closed.
const RECORD_BYTES_MAX: usize = 64 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Whole records.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// The number of its first record, from 0 behind the header.
    pub(super) first_row: u64,
    /// The line that it begins with, from 1.
    pub(super) first_line: u64,
}

/// Where the bytes so far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between records.
    Between,
    /// Where a field begins.
    Field,
    /// In a field without quotes, or behind its quotes.
    Plain,
    /// In quotes.
    Quoted,
    /// Behind a quote in quotes: their end, or one of two.
    Quote,
}

impl State {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) | (Self::Quote | Self::Field | Self::Between, b'"') => Self::Quoted,
            (_, b'\n' | b'\r') => Self::Between,
            (_, b',') => Self::Field,
            _ => Self::Plain,
        }
    }
}

/// An input that is cut into chunks.
#[derive(Debug)]
pub(super) struct Records<R> {
    input: R,
    chunk_bytes: usize,
    /// Read, but behind the last whole record.
    rest: Vec<u8>,
    at_end: bool,
    rows: u64,
    lines: u64,
    is_first: bool,
}

impl<R: Read> Records<R> {
    pub(super) fn new(input: R) -> Self {
        Self::in_chunks(input, CHUNK_BYTES)
    }

    fn in_chunks(input: R, chunk_bytes: usize) -> Self {
        Self {
            input,
            chunk_bytes,
            rest: Vec::new(),
            at_end: false,
            rows: 0,
            lines: 0,
            is_first: true,
        }
    }

    /// Records so far, without the header.
    pub(super) fn count(&self) -> u64 {
        self.rows
    }

    /// Goes on behind the first record.
    pub(super) fn skip_header(&mut self) -> io::Result<()> {
        loop {
            let whole = self.at_end;
            let mut state = State::Between;
            let mut begun = false;
            for (place, &byte) in self.rest.iter().enumerate() {
                state = state.after(byte);
                begun |= state != State::Between;
                if begun && state == State::Between {
                    self.lines += lines(&self.rest[..=place]);
                    self.rest.drain(..=place);
                    return Ok(());
                }
            }
            if whole {
                self.rest.clear();
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// The next whole records; none at the end.
    pub(super) fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        // What was looked at already, with its state.
        let (mut seen, mut state) = (0, State::Between);
        let (mut records, mut end) = (0, 0);
        loop {
            for (place, &byte) in self.rest.iter().enumerate().skip(seen) {
                let next = state.after(byte);
                if next == State::Between {
                    records += u64::from(state != State::Between);
                    end = place + 1;
                }
                state = next;
            }
            seen = self.rest.len();
            if self.at_end {
                // The last line may have no end.
                records += u64::from(state != State::Between);
                end = seen;
                break;
            }
            if end > 0 && seen >= self.chunk_bytes {
                break;
            }
            if seen - end > RECORD_BYTES_MAX {
                let line = self.lines + lines(&self.rest[..end]) + 1;
                let problem = format!(
                    "line {line}: a record of more than {RECORD_BYTES_MAX} bytes; is a quote not closed?"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            self.fill()?;
        }
        if records == 0 && self.at_end {
            return Ok(None);
        }
        let rest = self.rest.split_off(end);
        let bytes = std::mem::replace(&mut self.rest, rest);
        let chunk = Chunk {
            first_row: self.rows,
            first_line: self.lines + 1,
            bytes,
        };
        self.rows += records;
        self.lines += lines(&chunk.bytes);
        Ok(Some(chunk))
    }

    /// Reads up to another chunk.
    fn fill(&mut self) -> io::Result<()> {
        let before = self.rest.len();
        let wanted = self.chunk_bytes;
        self.rest.reserve(wanted);
        let mut input = self.input.by_ref().take(wanted as u64);
        self.at_end = input.read_to_end(&mut self.rest)? < wanted;
        if std::mem::take(&mut self.is_first) && self.rest[before..].starts_with(BYTE_ORDER_MARK) {
            self.rest.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(())
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The fields of each record of a text, as the `csv` crate reads it.
    fn read(text: &[u8], has_headers: bool) -> Vec<Vec<Vec<u8>>> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(has_headers)
            .flexible(true)
            .from_reader(text);
        let records = reader
            .byte_records()
            .map(|record| record.expect("from memory"));
        let fields = records.map(|record| record.iter().map(<[u8]>::to_vec).collect());
        fields.collect()
    }

    fn whole(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        read(text, true)
    }

    /// The same, from chunks of about `size` bytes.
    fn in_chunks(text: &[u8], size: usize) -> (Vec<Vec<Vec<u8>>>, Vec<u64>) {
        let mut records = Records::in_chunks(text, size);
        records.skip_header().expect("from memory");
        let (mut found, mut first_lines) = (Vec::new(), Vec::new());
        while let Some(chunk) = records.next_chunk().expect("from memory") {
            assert_eq!(chunk.first_row, found.len() as u64);
            found.extend(read(&chunk.bytes, false));
            first_lines.push(chunk.first_line);
        }
        assert_eq!(records.count(), found.len() as u64);
        (found, first_lines)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]
        #[test]
        fn chunks_hold_the_records_of_the_whole(
            text in prop::collection::vec(prop::sample::select(b"ab,,\"\"\n\n\r ".to_vec()), 0..80), size in 4usize..40,
        ) {
            prop_assert_eq!(in_chunks(&text, size).0, whole(&text));
        }
    }

    #[test]
    fn records_longer_than_a_chunk_and_marks_are_read() {
        let long = "x".repeat(CHUNK_BYTES + 7);
        let quoted = format!("\u{feff}\"a\nb\",c\n\"{long}\n\",1\n2,\"{long}\"\"\"\r\n\n3,4");
        let (found, _) = in_chunks(quoted.as_bytes(), CHUNK_BYTES);
        assert_eq!(found, whole(quoted.as_bytes()));
        assert_eq!(found.len(), 3);
        // Many chunks, each with records.
        let rows: String = (0..1000)
            .map(|row| format!("{row},{}\n", row % 7))
            .collect();
        let text = format!("a,b\n{rows}");
        let (found, first_lines) = in_chunks(text.as_bytes(), 100);
        assert_eq!(found, whole(text.as_bytes()));
        assert!(first_lines.len() > 20, "{first_lines:?}");
        assert!(first_lines[0] == 2 && first_lines.is_sorted());
    }

    #[test]
    fn a_quote_that_nobody_closes_is_told_before_memory_is_full() {
        let text = format!("a,b\n1,2\n3,\"{}", "x\n".repeat(RECORD_BYTES_MAX));
        let mut records = Records::new(text.as_bytes());
        records.skip_header().expect("a header");
        let error = loop {
            match records.next_chunk() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was taken"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            error.contains("line 3") && error.contains("quote"),
            "{error}"
        );
    }
}
