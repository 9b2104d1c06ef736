//! Delimited text, record by record, out of a bounded buffer.
//!
//! Fields may be quoted, a doubled quote stands for one, and quoted fields may hold line breaks
//! (RFC 4180). A record that cannot be one, such as one whose quote never closes, costs its first
//! line only: reading goes on with the next line, so one stray quote does not swallow the file.

use std::io::{self, Read};

use super::value::parts;

/// The most bytes of a record; more means a quote that never closes.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 1 << 18;

/// How records are cut into fields.
#[derive(Debug, Clone)]
pub(super) struct Dialect {
    /// What parts two fields; more than one byte switches quoting off.
    pub(super) delimiter: Vec<u8>,
    /// The quoting character.
    pub(super) quote: Option<u8>,
}

/// Why a record is malformed, before its fields are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordFault {
    UnterminatedQuote,
    TextAfterQuote,
    TooLong,
}

impl std::fmt::Display for RecordFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnterminatedQuote => f.write_str("a quote never closes"),
            Self::TextAfterQuote => f.write_str("text follows a closing quote"),
            Self::TooLong => write!(
                f,
                "it has more than {RECORD_BYTES_MAX} bytes, as where a quote never closes"
            ),
        }
    }
}

/// What reading one record came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Record,
    Malformed(RecordFault),
    End,
}

/// Where a field lies: in the buffer, or in the scratch where it had doubled quotes.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    in_scratch: bool,
}

#[derive(Debug)]
pub(super) struct RecordReader<R> {
    input: R,
    dialect: Dialect,
    buffer: Vec<u8>,
    /// Where the last record begins, and where the next one does.
    record: usize,
    next: usize,
    filled: usize,
    at_end: bool,
    spans: Vec<Span>,
    scratch: Vec<u8>,
    /// The line of the last record and of the next one, from 1.
    record_line: u64,
    next_line: u64,
}

/// What scanning the buffered bytes came to.
enum Scan {
    /// Bytes and line breaks of a whole record.
    Whole {
        bytes: usize,
        lines: u64,
    },
    More,
    Bad(RecordFault),
}

impl<R: Read> RecordReader<R> {
    pub(super) fn new(input: R, dialect: Dialect) -> Self {
        Self {
            input,
            dialect,
            buffer: vec![0; READ_BYTES],
            record: 0,
            next: 0,
            filled: 0,
            at_end: false,
            spans: Vec::new(),
            scratch: Vec::new(),
            record_line: 0,
            next_line: 1,
        }
    }

    /// Reads the next record that is not an empty line.
    ///
    /// # Errors
    /// What the input says; a malformed record is none.
    pub(super) fn read(&mut self) -> io::Result<Next> {
        loop {
            if self.next == self.filled && !self.fill()? {
                return Ok(Next::End);
            }
            (self.record, self.record_line) = (self.next, self.next_line);
            self.spans.clear();
            self.scratch.clear();
            match self.scan() {
                Scan::Whole { bytes, lines } => {
                    self.next = self.record + bytes;
                    self.next_line = self.record_line + lines;
                    if !self.is_blank() {
                        return Ok(Next::Record);
                    }
                }
                Scan::More if self.filled - self.record > RECORD_BYTES_MAX => {
                    return self
                        .skip_line()
                        .map(|()| Next::Malformed(RecordFault::TooLong));
                }
                Scan::More => {
                    self.fill()?;
                }
                Scan::Bad(fault) => return self.skip_line().map(|()| Next::Malformed(fault)),
            }
        }
    }

    /// What was read behind the last record, the input, and the number of the line that comes next.
    pub(super) fn into_rest(mut self) -> (Vec<u8>, R, u64) {
        self.buffer.truncate(self.filled);
        self.buffer.drain(..self.next);
        (self.buffer, self.input, self.next_line)
    }

    /// The number of fields of the last record.
    pub(super) fn fields(&self) -> usize {
        self.spans.len()
    }

    /// A field of the last record.
    ///
    /// # Panics
    /// If `index` is not below [`RecordReader::fields`].
    #[inline]
    pub(super) fn field(&self, index: usize) -> &[u8] {
        let span = self.spans[index];
        let bytes = if span.in_scratch {
            &self.scratch
        } else {
            &self.buffer
        };
        &bytes[span.start..span.end]
    }

    /// The line on which the last record began, from 1.
    pub(super) fn line(&self) -> u64 {
        self.record_line
    }

    /// Goes back to the line after the first of the last record, which turned out to be malformed.
    pub(super) fn reject(&mut self) {
        if self.next_line > self.record_line + 1
            && let Some(at) = newline(&self.buffer[self.record..self.next])
        {
            self.next = self.record + at + 1;
            self.next_line = self.record_line + 1;
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self.spans[..], [only] if only.start == only.end && !only.in_scratch)
            && self.buffer[self.record..self.next]
                .iter()
                .all(|b| matches!(b, b'\n' | b'\r'))
    }

    /// Leaves out the line at which the last record began.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            if let Some(at) = newline(&self.buffer[self.next..self.filled]) {
                self.next += at + 1;
                self.next_line += 1;
                return Ok(());
            }
            // The whole buffer is one line; none of it is needed any more.
            self.next = self.filled;
            self.record = self.filled;
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    /// Reads on, keeping everything from the record that was begun. False at the end of the input.
    fn fill(&mut self) -> io::Result<bool> {
        let keep = if self.next == self.filled {
            self.filled
        } else {
            self.next.min(self.record)
        };
        self.buffer.copy_within(keep..self.filled, 0);
        self.filled -= keep;
        self.next -= keep;
        self.record = self.record.saturating_sub(keep);
        if self.buffer.len() - self.filled < READ_BYTES {
            self.buffer.resize(self.filled + READ_BYTES, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    self.at_end = true;
                    return Ok(false);
                }
                Ok(bytes) => {
                    self.filled += bytes;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn scan(&mut self) -> Scan {
        if self.dialect.delimiter.len() > 1 {
            self.scan_plain()
        } else {
            self.scan_quoted()
        }
    }

    /// A line without quoting, cut at a delimiter of any length.
    fn scan_plain(&mut self) -> Scan {
        let data = &self.buffer[self.record..self.filled];
        let (end, bytes, lines) = match newline(data) {
            Some(at) => (at, at + 1, 1),
            None if self.at_end => (data.len(), data.len(), 0),
            None => return Scan::More,
        };
        let line = trim_return(data, 0, end);
        let spans = parts(&data[..line], &self.dialect.delimiter).map(|range| Span {
            start: self.record + range.start,
            end: self.record + range.end,
            in_scratch: false,
        });
        self.spans.extend(spans);
        Scan::Whole { bytes, lines }
    }

    /// A record whose fields may be quoted, cut at one byte.
    fn scan_quoted(&mut self) -> Scan {
        let delimiter = self.dialect.delimiter[0];
        let data = &self.buffer[self.record..self.filled];
        let in_buffer = |start: usize, end: usize| Span {
            start: self.record + start,
            end: self.record + end,
            in_scratch: false,
        };
        let (mut at, mut lines) = (0, 0);
        loop {
            if self.dialect.quote.is_some() && self.dialect.quote == data.get(at).copied() {
                let field = match Quoted::scan(data, at, self.at_end, &mut self.scratch) {
                    Ok(field) => field,
                    Err(stop) => return stop,
                };
                let span = match field.scratch {
                    Some((start, end)) => Span {
                        start,
                        end,
                        in_scratch: true,
                    },
                    None => in_buffer(at + 1, field.close),
                };
                self.spans.push(span);
                lines += field.lines;
                at = field.close + 1;
                if data[at..].starts_with(b"\r\n") {
                    at += 1;
                }
            } else {
                let start = at;
                at = match data[at..]
                    .iter()
                    .position(|b| *b == delimiter || *b == b'\n')
                {
                    Some(found) => at + found,
                    None if self.at_end => data.len(),
                    None => return Scan::More,
                };
                let ends_line = data.get(at) != Some(&delimiter);
                let end = if ends_line {
                    trim_return(data, start, at)
                } else {
                    at
                };
                self.spans.push(in_buffer(start, end));
            }
            match data.get(at) {
                Some(byte) if *byte == delimiter => at += 1,
                Some(b'\n') => {
                    return Scan::Whole {
                        bytes: at + 1,
                        lines: lines + 1,
                    };
                }
                None if self.at_end => return Scan::Whole { bytes: at, lines },
                None | Some(b'\r') if !self.at_end && at + 1 >= data.len() => return Scan::More,
                _ => return Scan::Bad(RecordFault::TextAfterQuote),
            }
        }
    }
}

/// A quoted field.
struct Quoted {
    /// The place of the closing quote.
    close: usize,
    /// Line breaks inside.
    lines: u64,
    /// Where it lies in the scratch, if it had doubled quotes.
    scratch: Option<(usize, usize)>,
}

impl Quoted {
    /// Scans the field whose opening quote is at `open`.
    fn scan(data: &[u8], open: usize, at_end: bool, scratch: &mut Vec<u8>) -> Result<Self, Scan> {
        let quote = data[open];
        let first = scratch.len();
        let (mut at, mut lines) = (open + 1, 0);
        let mut copied = at;
        loop {
            match data[at..].iter().position(|b| *b == quote || *b == b'\n') {
                None if at_end => return Err(Scan::Bad(RecordFault::UnterminatedQuote)),
                None => return Err(Scan::More),
                Some(found) => at += found,
            }
            if data[at] == b'\n' {
                lines += 1;
                at += 1;
            } else if data.get(at + 1) == Some(&quote) {
                // Of a doubled quote, one is copied.
                scratch.extend_from_slice(&data[copied..=at]);
                at += 2;
                copied = at;
            } else if at + 1 == data.len() && !at_end {
                return Err(Scan::More);
            } else {
                break;
            }
        }
        let doubled = copied > open + 1;
        if doubled {
            scratch.extend_from_slice(&data[copied..at]);
        }
        Ok(Self {
            close: at,
            lines,
            scratch: doubled.then_some((first, scratch.len())),
        })
    }
}

fn newline(data: &[u8]) -> Option<usize> {
    data.iter().position(|b| *b == b'\n')
}

/// The end of a line without its carriage return.
fn trim_return(data: &[u8], start: usize, end: usize) -> usize {
    if end > start && data[end - 1] == b'\r' {
        end - 1
    } else {
        end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives its bytes in pieces, so that records cross every boundary.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn dialect(delimiter: &str, quote: Option<u8>) -> Dialect {
        Dialect {
            delimiter: delimiter.into(),
            quote,
        }
    }

    /// Records with their lines; malformed ones as their reason.
    fn records(
        text: &[u8],
        dialect: Dialect,
        piece: usize,
        width: Option<usize>,
    ) -> Vec<(u64, Vec<String>)> {
        let mut reader = RecordReader::new(Pieces(text, piece), dialect);
        let mut records = Vec::new();
        loop {
            match reader.read().expect("reading memory does not fail") {
                Next::End => return records,
                Next::Malformed(fault) => records.push((reader.line(), vec![format!("! {fault}")])),
                Next::Record if width.is_some_and(|width| width != reader.fields()) => {
                    records.push((reader.line(), vec!["! width".into()]));
                    reader.reject();
                }
                Next::Record => {
                    let field = |i| String::from_utf8_lossy(reader.field(i)).into_owned();
                    records.push((reader.line(), (0..reader.fields()).map(field).collect()));
                }
            }
        }
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Vec<String>) {
        (line, fields.iter().map(|f| (*f).to_owned()).collect())
    }

    #[test]
    fn quotes_line_breaks_and_blank_lines_are_read() {
        let text = b"a,\"b,\"\"c\"\"\",\r\n\n\"two\nlines\",,\"\"\r\nlast,x,y";
        for piece in [1, 2, 3, 7, 1000] {
            let expected = vec![
                row(1, &["a", "b,\"c\"", ""]),
                row(3, &["two\nlines", "", ""]),
                row(5, &["last", "x", "y"]),
            ];
            assert_eq!(
                records(text, dialect(",", Some(b'"')), piece, None),
                expected,
                "piece {piece}"
            );
        }
    }

    #[test]
    fn long_delimiters_cut_lines_without_quoting() {
        let text = b"1::\"x::5\n2::y::\r\n";
        for piece in [1, 4, 100] {
            let expected = vec![row(1, &["1", "\"x", "5"]), row(2, &["2", "y", ""])];
            assert_eq!(records(text, dialect("::", None), piece, None), expected);
        }
    }

    #[test]
    fn a_quote_that_never_closes_costs_one_line() {
        let text = b"a,1\n\"b,2\nc,3\nd,4\n";
        let expected = vec![
            row(1, &["a", "1"]),
            row(2, &["! a quote never closes"]),
            row(3, &["c", "3"]),
            row(4, &["d", "4"]),
        ];
        for piece in [1, 5, 100] {
            assert_eq!(
                records(text, dialect(",", Some(b'"')), piece, Some(2)),
                expected
            );
        }
    }

    #[test]
    fn a_quote_that_closes_lines_later_costs_one_line() {
        let text = b"\"a,1\nb,2\nc,3\"\nd,4\n";
        let expected = vec![
            row(1, &["! width"]),
            row(2, &["b", "2"]),
            row(3, &["c", "3\""]),
            row(4, &["d", "4"]),
        ];
        assert_eq!(
            records(text, dialect(",", Some(b'"')), 100, Some(2)),
            expected
        );
    }

    #[test]
    fn an_endless_record_is_given_up_and_the_next_line_read() {
        let mut text = b"\"".to_vec();
        text.extend(std::iter::repeat_n(b'x', 2 * RECORD_BYTES_MAX));
        text.extend(b"\na,1\n");
        let expected = vec![
            row(1, &[&format!("! {}", RecordFault::TooLong)]),
            row(2, &["a", "1"]),
        ];
        assert_eq!(
            records(&text, dialect(",", Some(b'"')), 1 << 16, Some(2)),
            expected
        );
    }

    #[test]
    fn text_after_a_closing_quote_is_malformed() {
        let expected = vec![
            row(1, &["! text follows a closing quote"]),
            row(2, &["b", "2"]),
        ];
        assert_eq!(
            records(b"\"a\"x,1\nb,2", dialect(",", Some(b'"')), 3, Some(2)),
            expected
        );
    }

    proptest! {
        /// No text makes it panic, loop or lose count of its lines.
        #[test]
        fn any_text_is_read_to_its_end(
            text in "[ab,\"\r\n]{0,60}",
            piece in 1usize..20,
            width in proptest::option::of(1usize..4),
        ) {
            let read = records(text.as_bytes(), dialect(",", Some(b'"')), piece, width);
            let lines: Vec<_> = read.iter().map(|(line, _)| *line).collect();
            prop_assert!(lines.windows(2).all(|pair| pair[0] < pair[1]), "{lines:?}");
            let last = text.lines().count() as u64;
            prop_assert!(lines.iter().all(|line| (1..=last).contains(line)), "{lines:?} of {last}");
        }

        /// Whatever the csv crate writes is read back, whatever the sizes of the reads.
        #[test]
        fn written_records_are_read_back(
            table in proptest::collection::vec(
                proptest::collection::vec("[a-c,\"\n\r ]{0,6}", 3), 1..8),
            piece in 1usize..20,
        ) {
            let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
            for record in &table {
                writer.write_record(record).expect("writing to memory does not fail");
            }
            let text = writer.into_inner().expect("writing to memory does not fail");
            let read: Vec<_> = records(&text, dialect(",", Some(b'"')), piece, None)
                .into_iter().map(|(_, fields)| fields).collect();
            prop_assert_eq!(read, table);
        }
    }
}
