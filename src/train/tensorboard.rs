//! TensorBoard event files: TFRecords that hold `Event` protobufs (tensorflow/core/util/event.proto
//! and tensorflow/core/framework/summary.proto; record framing: tensorflow/core/lib/io/record_writer.h).
//!
//! ```text
//! record: u64 length | u32 masked CRC-32C of the length | bytes | u32 masked CRC-32C of the bytes
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since the epoch.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// With the status START (1), readers drop what earlier files hold of this step and later ones
/// (tensorboard/backend/event_processing/event_accumulator.py).
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// Writes one event file of scalars.
#[derive(Debug)]
pub struct TensorBoard {
    file: BufWriter<File>,
}

impl TensorBoard {
    /// Creates a new event file in `folder`, to follow `step`. A resumed run adds a file; TensorBoard
    /// reads them all, and drops what earlier ones hold of later steps, since they come again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(folder: &Path, step: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!(
            "events.out.tfevents.{:.6}.streamrec.{}",
            seconds(),
            std::process::id()
        );
        let file = BufWriter::new(File::create(folder.join(name))?);
        let mut writer = Self { file };
        writer.write(0, What::FileVersion("brain.Event:2".into()))?;
        writer.write(step + 1, What::SessionLog(SessionLog { status: START }))?;
        Ok(writer)
    }

    /// Writes `scalars`, each a tag such as `train/loss` and its value, at `step`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> io::Result<()> {
        let value = |(tag, value): &(String, f64)| Value {
            tag: tag.clone(),
            simple_value: *value as f32,
        };
        let value = scalars.iter().map(value).collect();
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: u64, what: What) -> io::Result<()> {
        let event = Event {
            wall_time: seconds(),
            step: i64::try_from(step).unwrap_or(i64::MAX),
            what: Some(what),
        };
        let bytes = event.encode_to_vec();
        let length = (bytes.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc(&length))?;
        self.file.write_all(&bytes)?;
        self.file.write_all(&masked_crc(&bytes))?;
        self.file.flush()
    }
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// CRC-32C, rotated and offset, so that a checksum of data holding checksums stays sound.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a file into its records, checking both checksums.
    fn records(bytes: &[u8]) -> Vec<Event> {
        let mut rest = bytes;
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, tail) = rest.split_at(8);
            assert_eq!(masked_crc(length), tail[..4]);
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
            let (body, tail) = tail[4..].split_at(length);
            assert_eq!(masked_crc(body), tail[..4]);
            events.push(Event::decode(body).expect("an event"));
            rest = &tail[4..];
        }
        events
    }

    #[test]
    fn an_event_file_reads_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = TensorBoard::create(folder.path(), 6).expect("created");
        let scalars = [
            ("train/loss".to_owned(), 0.5),
            ("train/auc".to_owned(), 0.75),
        ];
        writer.scalars(7, &scalars).expect("written");
        let file = std::fs::read_dir(folder.path()).expect("listed").next();
        let file = file.expect("one file").expect("readable").path();
        let events = records(&std::fs::read(file).expect("read"));
        assert_eq!(events.len(), 3);
        assert_eq!(
            events[0].what,
            Some(What::FileVersion("brain.Event:2".into()))
        );
        let start = What::SessionLog(SessionLog { status: START });
        assert_eq!((events[1].step, &events[1].what), (7, &Some(start)));
        let Some(What::Summary(summary)) = &events[2].what else {
            panic!("expected a summary, got {:?}", events[2]);
        };
        assert_eq!((events[2].step, summary.value[1].simple_value), (7, 0.75));
    }

    #[test]
    fn checksums_match_a_known_record() {
        // The check value of CRC-32C (RFC 3720, appendix B.4): 32 zero bytes give 8a9136aa.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // A record of the length 24, as TensorFlow writes it first in every event file.
        assert_eq!(masked_crc(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }
}
