//! Text without quotes, cut into chunks of whole lines that threads parse apart from one another.

use std::io::{self, Read};

use super::text::RECORD_BYTES_MAX;

/// Bytes of a chunk: it stays in a core's cache from the first pass over it to the last.
pub(super) const CHUNK_BYTES: usize = 1 << 18;

/// Cuts an input.
pub(super) struct LineChunks<R> {
    input: R,
    /// What was read behind the last line of the chunk before.
    rest: Vec<u8>,
    at_end: bool,
}

impl<R: Read> LineChunks<R> {
    /// Goes on behind `rest`, which was read already.
    pub(super) fn new(rest: Vec<u8>, input: R) -> Self {
        Self {
            input,
            rest,
            at_end: false,
        }
    }

    /// Fills `chunk` with whole lines, the last one closed where the input does not. False at the end.
    /// Of a line longer than a record may be only so much is kept that it can be told.
    ///
    /// # Errors
    /// What the input says.
    pub(super) fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        chunk.append(&mut self.rest);
        loop {
            if !self.at_end {
                self.fill(chunk)?;
            }
            if self.at_end {
                if chunk.last().is_some_and(|last| *last != b'\n') {
                    chunk.push(b'\n');
                }
                return Ok(!chunk.is_empty());
            }
            if let Some(last) = chunk.iter().rposition(|byte| *byte == b'\n') {
                self.rest.extend_from_slice(&chunk[last + 1..]);
                chunk.truncate(last + 1);
                return Ok(true);
            }
            if chunk.len() > RECORD_BYTES_MAX {
                chunk.truncate(RECORD_BYTES_MAX + 1);
                self.skip_line()?;
                chunk.push(b'\n');
                return Ok(true);
            }
        }
    }

    /// Reads up to another chunk.
    fn fill(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        let wanted = CHUNK_BYTES.saturating_sub(chunk.len()).max(CHUNK_BYTES / 2);
        let got = self.input.by_ref().take(wanted as u64).read_to_end(chunk)?;
        self.at_end = got < wanted;
        Ok(())
    }

    /// Drops the input up to the end of the line, and keeps what was read behind it.
    fn skip_line(&mut self) -> io::Result<()> {
        let mut more = Vec::new();
        while !self.at_end {
            more.clear();
            self.fill(&mut more)?;
            if let Some(end) = more.iter().position(|byte| *byte == b'\n') {
                self.rest.extend_from_slice(&more[end + 1..]);
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_lines_and_lose_nothing() {
        let line = |number: usize| format!("{number}\t{}\n", "x".repeat(number % 97));
        let text: String = (0..20_000).map(line).collect();
        let text = text.trim_end();
        let (head, tail) = text.as_bytes().split_at(10);
        let mut chunks = LineChunks::new(head.to_vec(), tail);
        let (mut chunk, mut all) = (Vec::new(), Vec::new());
        while chunks.next(&mut chunk).expect("memory does not fail") {
            assert_eq!(chunk.last(), Some(&b'\n'));
            assert!(chunk.len() <= 2 * CHUNK_BYTES);
            all.extend_from_slice(&chunk);
        }
        assert_eq!(String::from_utf8(all).expect("text"), format!("{text}\n"));
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_kept() {
        let long = "y".repeat(3 * RECORD_BYTES_MAX);
        let text = format!("{long}\nnext\n");
        let mut chunks = LineChunks::new(Vec::new(), text.as_bytes());
        let mut chunk = Vec::new();
        assert!(chunks.next(&mut chunk).expect("read"));
        assert_eq!(chunk.len(), RECORD_BYTES_MAX + 2);
        assert!(chunks.next(&mut chunk).expect("read"));
        assert_eq!(chunk, b"next\n");
        assert!(!chunks.next(&mut chunk).expect("read"));
    }
}
