//! The messages of the rendezvous, as `docs/formats/rendezvous.md` specifies them.

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::environment::RankEnvironment;

/// Longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 256;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longest frame after its length: the largest value, its key and the fields before them.
const FRAME_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + 16;

const MAGIC: [u8; 4] = *b"SRRV";
const VERSION: u8 = 1;

/// Writes one frame: its length as a little-endian `u32`, then its bytes.
pub(super) fn write(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len())
        .map_err(|_| malformed("a frame longer than its length field"))?;
    let mut bytes = Vec::with_capacity(4 + frame.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(frame);
    stream.write_all(&bytes)
}

/// Reads one frame; its length is checked before memory is set aside for it.
pub(super) fn read(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(malformed("a frame longer than the limit"));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed rendezvous message: {what}"),
    )
}

/// Takes fields off the front of a frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn number(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> io::Result<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > KEY_BYTES_MAX {
            return Err(malformed("a text longer than the limit"));
        }
        utf8(self.bytes(length)?)
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }

    fn end(self) -> io::Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(malformed("bytes after its end"))
        }
    }
}

fn utf8(bytes: &[u8]) -> io::Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("a text that is not UTF-8"))
}

/// Texts longer than the limit are cut at a character: both sides cut alike.
fn put_text(frame: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(KEY_BYTES_MAX)];
    frame.extend_from_slice(&(text.len() as u16).to_le_bytes());
    frame.extend_from_slice(text.as_bytes());
}

fn put_number(frame: &mut Vec<u8>, number: usize) {
    frame.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_timeout(frame: &mut Vec<u8>, timeout: Duration) {
    put_number(
        frame,
        usize::try_from(timeout.as_millis()).unwrap_or(usize::MAX),
    );
}

/// The first frame of a connection: who comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub rank: usize,
    pub world_size: usize,
    pub restart_count: u32,
    pub run_id: String,
}

impl Hello {
    pub fn of(environment: &RankEnvironment) -> Self {
        Self {
            rank: environment.rank,
            world_size: environment.world_size,
            restart_count: environment.restart_count,
            run_id: environment.run_id[..environment.run_id.floor_char_boundary(KEY_BYTES_MAX)]
                .to_owned(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut frame = [MAGIC.as_slice(), &[VERSION]].concat();
        put_number(&mut frame, self.rank);
        put_number(&mut frame, self.world_size);
        frame.extend_from_slice(&self.restart_count.to_le_bytes());
        put_text(&mut frame, &self.run_id);
        frame
    }

    pub fn decode(frame: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(frame);
        if fields.array()? != MAGIC {
            return Err(malformed("not a StreamRec rendezvous"));
        }
        if fields.array()? != [VERSION] {
            return Err(malformed(
                "another version; run the same binary on all ranks",
            ));
        }
        let hello = Self {
            rank: fields.number()? as usize,
            world_size: fields.number()? as usize,
            restart_count: fields.number()?,
            run_id: fields.text()?,
        };
        fields.end()?;
        Ok(hello)
    }
}

/// What a rank asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Set { key: String, value: Vec<u8> },
    Get { key: String, timeout: Duration },
    Barrier { name: String, timeout: Duration },
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        match self {
            Self::Set { key, value } => {
                frame.push(1);
                put_text(&mut frame, key);
                frame.extend_from_slice(value);
            }
            Self::Get { key, timeout } => {
                frame.push(2);
                put_text(&mut frame, key);
                put_timeout(&mut frame, *timeout);
            }
            Self::Barrier { name, timeout } => {
                frame.push(3);
                put_text(&mut frame, name);
                put_timeout(&mut frame, *timeout);
            }
        }
        frame
    }

    pub fn decode(frame: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(frame);
        let [operation] = fields.array()?;
        let key = fields.text()?;
        if operation == 1 {
            let value = fields.rest().to_vec();
            if value.len() > VALUE_BYTES_MAX {
                return Err(malformed("a value longer than the limit"));
            }
            return Ok(Self::Set { key, value });
        }
        let timeout = Duration::from_millis(fields.number()?.into());
        fields.end()?;
        match operation {
            2 => Ok(Self::Get { key, timeout }),
            3 => Ok(Self::Barrier { name: key, timeout }),
            _ => Err(malformed("an unknown operation")),
        }
    }
}

/// What the host answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// A set, a barrier or a hello succeeded.
    Done,
    /// The value of a get.
    Value(Vec<u8>),
    /// The time of a get or barrier is over; for a barrier, the ranks that did not come.
    TimedOut(Vec<usize>),
    /// The request cannot succeed: the reason.
    Refused(String),
    /// The host serves another job or attempt, and may leave soon: its name.
    OtherJob(String),
}

impl Response {
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        match self {
            Self::Done => frame.push(0),
            Self::Value(value) => {
                frame.push(1);
                frame.extend_from_slice(value);
            }
            Self::TimedOut(missing) => {
                frame.push(2);
                missing
                    .iter()
                    .for_each(|&rank| put_number(&mut frame, rank));
            }
            Self::Refused(reason) => {
                frame.push(3);
                put_text(&mut frame, reason);
            }
            Self::OtherJob(job) => {
                frame.push(4);
                put_text(&mut frame, job);
            }
        }
        frame
    }

    pub fn decode(frame: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(frame);
        let [status] = fields.array()?;
        let response = match status {
            0 => Self::Done,
            1 => return Ok(Self::Value(fields.rest().to_vec())),
            2 => {
                let (ranks, rest) = fields.rest().as_chunks::<4>();
                fields = Fields(rest);
                Self::TimedOut(
                    ranks
                        .iter()
                        .map(|rank| u32::from_le_bytes(*rank) as usize)
                        .collect(),
                )
            }
            3 => Self::Refused(fields.text()?),
            4 => Self::OtherJob(fields.text()?),
            _ => return Err(malformed("an unknown status")),
        };
        fields.end()?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = String> {
        "\\PC{0,40}"
    }

    fn timeout() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire(key in key(), value: Vec<u8>, timeout in timeout()) {
            for request in [
                Request::Set { key: key.clone(), value: value.clone() },
                Request::Get { key: key.clone(), timeout },
                Request::Barrier { name: key.clone(), timeout },
            ] {
                let mut wire = Vec::new();
                write(&mut wire, &request.encode()).unwrap();
                prop_assert_eq!(Request::decode(&read(&mut wire.as_slice()).unwrap()).unwrap(), request);
            }
        }

        #[test]
        fn responses_survive_the_wire(reason in key(), value: Vec<u8>, missing: Vec<u16>) {
            let missing = missing.into_iter().map(usize::from).collect();
            for response in [
                Response::Done,
                Response::Value(value),
                Response::TimedOut(missing),
                Response::Refused(reason.clone()),
                Response::OtherJob(reason),
            ] {
                prop_assert_eq!(Response::decode(&response.encode()).unwrap(), response);
            }
        }

        #[test]
        fn a_hello_survives_the_wire(rank: u32, world_size: u32, restart_count: u32, run_id in key()) {
            let hello = Hello { rank: rank as usize, world_size: world_size as usize, restart_count, run_id };
            prop_assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_mean_what_they_say(bytes: Vec<u8>) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(response) = Response::decode(&bytes) {
                prop_assert_eq!(response.encode(), bytes.clone());
            }
            prop_assert!(Hello::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_are_read() {
        let wire = u32::MAX.to_le_bytes();
        assert_eq!(
            read(&mut wire.as_slice()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let short = 8_u32.to_le_bytes();
        assert_eq!(
            read(&mut short.as_slice()).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn the_largest_request_fits_a_frame() {
        let request = Request::Set {
            key: "k".repeat(KEY_BYTES_MAX),
            value: vec![0; VALUE_BYTES_MAX],
        };
        assert!(request.encode().len() <= FRAME_BYTES_MAX);
    }
}
