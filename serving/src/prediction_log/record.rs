//! One request as it is logged.

use std::fmt;

use streamrec_artifact::{ColumnKind, InputColumn, RawBatch, RawColumn, key};

use super::model::LoggedModel;

/// Bytes of a request id as it is logged, at most.
pub const REQUEST_ID_BYTES_MAX: usize = 256;

/// The first byte of a frame that holds a request.
pub(super) const REQUEST_FRAME: u8 = 2;
/// Bytes of a request frame before the id.
const FIXED: usize = 40;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStatus {
    /// Scored.
    Ok,
    /// Refused for what it said.
    BadRequest,
    /// Refused because too many waited, or because it waited too long.
    Shed,
    /// A fault of the server's.
    Failed,
}

impl LogStatus {
    const ALL: [Self; 4] = [Self::Ok, Self::BadRequest, Self::Shed, Self::Failed];

    /// Its name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadRequest => "bad_request",
            Self::Shed => "shed",
            Self::Failed => "failed",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::BadRequest => 1,
            Self::Shed => 2,
            Self::Failed => 3,
        }
    }
}

impl fmt::Display for LogStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request, what it asked and what it was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// The caller's id or, where it sent none, one of the server's.
    pub request_id: String,
    /// When it arrived, milliseconds since the epoch UTC.
    pub time_ms: i64,
    /// How it ended.
    pub status: LogStatus,
    /// Microseconds from its head to its answer.
    pub total_us: u32,
    /// Microseconds that it waited for a batch.
    pub queue_us: u32,
    /// Microseconds in which its batch was scored.
    pub compute_us: u32,
    /// Its raw rows; no columns where they could not be read.
    pub rows: RawBatch,
    /// Probabilities `[rows, labels]`; empty where it was not scored.
    pub scores: Vec<f32>,
}

/// The id under which a request with this id is logged: a very long one is replaced by its hash.
pub fn logged_id(id: &str) -> String {
    if id.len() <= REQUEST_ID_BYTES_MAX {
        return id.to_owned();
    }
    format!("xxh3-{:016x}", key::from_text(id))
}

impl LogRecord {
    /// Appends the payload of its frame; `model` is its model's place among the segment's.
    pub(super) fn encode(&self, model: u32, out: &mut Vec<u8>) {
        let id = self.request_id.as_bytes();
        let id = &id[..id.len().min(REQUEST_ID_BYTES_MAX)];
        let columns = self.rows.columns.len();
        out.extend_from_slice(&[REQUEST_FRAME, self.status.code()]);
        out.extend_from_slice(&(id.len() as u16).to_le_bytes());
        out.extend_from_slice(&model.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        let (rows, columns, scores) = (self.rows.rows, columns, self.scores.len());
        for value in [self.total_us, self.queue_us, self.compute_us] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [rows, columns, scores] {
            // A batch holds fewer: its lists count keys in 32 bits.
            out.extend_from_slice(&(value as u32).to_le_bytes());
        }
        out.extend_from_slice(id);
        for column in &self.rows.columns {
            encode_column(column, out);
        }
        put(out, &self.scores, |score| score.to_le_bytes());
    }

    /// Reads a frame's payload: the place of its model, and the record.
    pub(super) fn decode(payload: &[u8], models: &[LoggedModel]) -> Result<(usize, Self), String> {
        let mut cursor = Cursor(payload);
        let [kind, status] = cursor.array()?;
        if kind != REQUEST_FRAME {
            return Err(format!("expected a request, got a frame of kind {kind}"));
        }
        let status = LogStatus::ALL.iter().find(|known| known.code() == status);
        let status = *status.ok_or("an unknown status")?;
        let id_length = u16::from_le_bytes(cursor.array()?);
        let place = u32::from_le_bytes(cursor.array()?) as usize;
        let model = models.get(place).ok_or("its model was not told before")?;
        let time_ms = i64::from_le_bytes(cursor.array()?);
        let mut number = || cursor.array().map(u32::from_le_bytes);
        let [total_us, queue_us, compute_us] = [number()?, number()?, number()?];
        let [rows, columns, scores] = [number()?, number()?, number()?].map(|count| count as usize);
        debug_assert_eq!(payload.len() - cursor.0.len(), FIXED);
        let id = cursor.take(usize::from(id_length))?;
        let request_id = std::str::from_utf8(id).map_err(|_| "its id is no UTF-8")?;
        if columns != 0 && columns != model.inputs.len() {
            return Err(format!(
                "expected {} columns, got {columns}",
                model.inputs.len()
            ));
        }
        if scores != 0 && Some(scores) != rows.checked_mul(model.labels.len()) {
            return Err(format!("expected a score for each label, got {scores}"));
        }
        let inputs = model.inputs.iter().take(columns);
        let columns = inputs.map(|input| cursor.column(input, rows));
        let columns: Vec<RawColumn> = columns.collect::<Result<_, _>>()?;
        let rows = RawBatch { rows, columns };
        let scores = cursor.values(scores, f32::from_le_bytes)?;
        if !cursor.0.is_empty() {
            return Err(format!("{} bytes too many", cursor.0.len()));
        }
        if !rows.columns.is_empty() {
            rows.check(&model.inputs)
                .map_err(|error| error.to_string())?;
        }
        let record = Self {
            request_id: request_id.to_owned(),
            time_ms,
            status,
            total_us,
            queue_us,
            compute_us,
            rows,
            scores,
        };
        Ok((place, record))
    }

    /// About the bytes of its frame.
    #[cfg(feature = "http")]
    pub(super) fn bytes(&self) -> usize {
        let column = |column: &RawColumn| match column {
            RawColumn::Dense(values) => values.len() * 4,
            RawColumn::Key(keys) => keys.len() * 8,
            RawColumn::KeyList { offsets, keys } => offsets.len() * 4 + keys.len() * 8,
            RawColumn::Time(times) => times.len() * 8,
        };
        let columns: usize = self.rows.columns.iter().map(column).sum();
        FIXED + self.request_id.len() + columns + self.scores.len() * 4
    }
}

fn put<T: Copy, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
    let begin = out.len();
    // At once, so that the loop is a copy.
    out.resize(begin + values.len() * N, 0);
    for (to, &value) in out[begin..].as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *to = bytes(value);
    }
}

fn encode_column(column: &RawColumn, out: &mut Vec<u8>) {
    match column {
        RawColumn::Dense(values) => put(out, values, f32::to_le_bytes),
        RawColumn::Key(keys) => put(out, keys, u64::to_le_bytes),
        RawColumn::KeyList { offsets, keys } => {
            put(out, offsets, u32::to_le_bytes);
            put(out, keys, u64::to_le_bytes);
        }
        RawColumn::Time(times) => put(out, times, i64::to_le_bytes),
    }
}

/// What is left of a payload.
struct Cursor<'p>(&'p [u8]);

impl<'p> Cursor<'p> {
    fn take(&mut self, bytes: usize) -> Result<&'p [u8], String> {
        let split = self.0.split_at_checked(bytes);
        let (taken, rest) =
            split.ok_or_else(|| format!("expected {bytes} bytes, got {}", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn values<T, const N: usize>(
        &mut self,
        count: usize,
        value: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, String> {
        let bytes = count.checked_mul(N).ok_or("a count that is too large")?;
        let chunks = self.take(bytes)?.chunks_exact(N);
        Ok(chunks
            .map(|chunk| {
                let mut bytes = [0; N];
                bytes.copy_from_slice(chunk);
                value(bytes)
            })
            .collect())
    }

    fn column(&mut self, input: &InputColumn, rows: usize) -> Result<RawColumn, String> {
        Ok(match input.kind {
            ColumnKind::Dense => RawColumn::Dense(self.values(rows, f32::from_le_bytes)?),
            ColumnKind::Key => RawColumn::Key(self.values(rows, u64::from_le_bytes)?),
            ColumnKind::Time => RawColumn::Time(self.values(rows, i64::from_le_bytes)?),
            ColumnKind::KeyList => {
                let offsets = self.values(rows + 1, u32::from_le_bytes)?;
                let keys = offsets.last().map_or(0, |&end| end as usize);
                RawColumn::KeyList {
                    keys: self.values(keys, u64::from_le_bytes)?,
                    offsets,
                }
            }
        })
    }
}
