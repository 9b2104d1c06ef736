//! Frames: a length, a checksum, and so many bytes.

use std::io::{self, Read};

/// Bytes of a frame's payload at most.
pub const FRAME_BYTES_MAX: usize = 128 << 20;
/// Bytes before the payload: its length and its CRC32C, both little-endian.
pub(super) const FRAME_HEAD: usize = 8;

/// Appends a frame whose payload `write` writes. One that is too long is taken back, and `false` comes.
pub(super) fn push_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let begin = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    write(out);
    let payload = &out[begin + FRAME_HEAD..];
    let (length, checksum) = (payload.len(), crc32c::crc32c(payload));
    if length > FRAME_BYTES_MAX {
        out.truncate(begin);
        return false;
    }
    // The limit fits 32 bits.
    out[begin..begin + 4].copy_from_slice(&(length as u32).to_le_bytes());
    out[begin + 4..begin + FRAME_HEAD].copy_from_slice(&checksum.to_le_bytes());
    true
}

/// What stands where a frame should.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextFrame {
    /// A whole one.
    Payload,
    /// The end.
    End,
    /// Something else.
    Damaged(String),
}

/// Reads a frame's payload into `payload`; `left` bytes are left of the file.
pub(super) fn read_frame(
    input: &mut impl Read,
    left: u64,
    payload: &mut Vec<u8>,
) -> io::Result<NextFrame> {
    if left == 0 {
        return Ok(NextFrame::End);
    }
    if left < FRAME_HEAD as u64 {
        let text = format!("expected a frame's head of {FRAME_HEAD} bytes, got {left}");
        return Ok(NextFrame::Damaged(text));
    }
    let mut head = [0; FRAME_HEAD];
    input.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h] = head;
    let (length, checksum) = (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    );
    let here = left - FRAME_HEAD as u64;
    // Before any memory is taken for it.
    if u64::from(length) > here || length as usize > FRAME_BYTES_MAX {
        let text = format!("a frame of {length} bytes does not fit the {here} that follow");
        return Ok(NextFrame::Damaged(text));
    }
    payload.clear();
    payload.resize(length as usize, 0);
    input.read_exact(payload)?;
    let found = crc32c::crc32c(payload);
    if found != checksum {
        let text = format!("the frame's CRC32C is {found:08x}, expected {checksum:08x}");
        return Ok(NextFrame::Damaged(text));
    }
    Ok(NextFrame::Payload)
}
