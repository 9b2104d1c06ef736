//! Valid files with some bytes changed: a fuzzer that begins with nothing seldom gets past a magic number.
//!
//! ```text
//! [position u16][bytes to cut u8][bytes to insert u8][those bytes] ...
//! ```

/// Makes the edits that `data` describes, one after the other.
pub fn edited(valid: &[u8], mut data: &[u8]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    while let Some(([low, high, cut, insert], rest)) = data.split_first_chunk() {
        let (inserted, rest) = rest.split_at((*insert as usize).min(rest.len()));
        data = rest;
        let at = u16::from_le_bytes([*low, *high]) as usize % (bytes.len() + 1);
        let end = (at + *cut as usize).min(bytes.len());
        bytes.splice(at..end, inserted.iter().copied());
    }
    bytes
}
