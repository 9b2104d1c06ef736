//! Header, column directory and block index of a packed file, see `docs/formats/packed.md`.

use streamrec_artifact::{ColumnKind, SourceType};
use xxhash_rust::xxh3::xxh3_64;

use crate::data::{Column, Role};

// Values are copied between files and memory as they lie.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "packed files are little-endian"
);

/// The rows of a block unless a writer is told otherwise.
pub const DEFAULT_BLOCK_ROWS: usize = 4096;
/// The most rows of a block.
pub const MAX_BLOCK_ROWS: usize = 1 << 20;

/// A line break of each kind shows a transfer that took the file for text.
pub(super) const MAGIC: [u8; 8] = *b"SRPK\r\n\x1a\n";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const INDEX_ENTRY_BYTES: usize = 24;
pub(super) const CHECKSUM_BYTES: usize = 8;
/// What every section of a block begins and ends on.
pub(super) const ALIGNMENT: usize = 8;
const MAX_COLUMNS: usize = 16_384;
const MAX_NAME_BYTES: usize = 1024;
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
/// The most bytes of a block.
pub(super) const MAX_BLOCK_BYTES: u64 = 1 << 30;

/// The first 64 bytes of a packed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub block_rows: u32,
    pub rows: u64,
    pub columns: u32,
    pub blocks: u32,
    pub directory_bytes: u64,
    pub index_offset: u64,
    pub file_bytes: u64,
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Version(u32),
    Problem(String),
}

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.block_rows.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.rows.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.columns.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.directory_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.index_offset.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.file_bytes.to_le_bytes());
        let checksum = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header and checks every bound that follows from it and the true length of the file.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES], actual_bytes: u64) -> Result<Self, HeaderError> {
        let problem = |text: String| Err(HeaderError::Problem(text));
        if bytes[..8] != MAGIC {
            return problem("it does not begin like a packed file".into());
        }
        let mut fields = Fields(&bytes[8..]);
        let (Some(version), Some(header), Some(checksum)) =
            (fields.u32(), Self::fields(&mut fields), fields.u64())
        else {
            return problem("it is too short".into());
        };
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if checksum != xxh3_64(&bytes[..56]) {
            return problem("its checksum is wrong".into());
        }
        if header.file_bytes != actual_bytes {
            return problem(format!(
                "the file should have {} bytes and has {actual_bytes}",
                header.file_bytes
            ));
        }
        header.check().map_or_else(problem, |()| Ok(header))
    }

    fn fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            block_rows: fields.u32()?,
            rows: fields.u64()?,
            columns: fields.u32()?,
            blocks: fields.u32()?,
            directory_bytes: fields.u64()?,
            index_offset: fields.u64()?,
            file_bytes: fields.u64()?,
        })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let within = |what, got: u64, most: u64| {
            let fits = (1..=most).contains(&got);
            fits.then_some(())
                .ok_or_else(|| format!("{what}: expected 1 to {most}, got {got}"))
        };
        within(
            "rows per block",
            self.block_rows.into(),
            MAX_BLOCK_ROWS as u64,
        )?;
        within("columns", self.columns.into(), MAX_COLUMNS as u64)?;
        within("directory bytes", self.directory_bytes, MAX_DIRECTORY_BYTES)?;
        if u64::from(self.blocks) != self.rows.div_ceil(self.block_rows.into()) {
            return Err(format!(
                "{} rows in blocks of {} do not make {} blocks",
                self.rows, self.block_rows, self.blocks
            ));
        }
        let index_end = self.index_offset.checked_add(self.index_bytes());
        let blocks_start = HEADER_BYTES as u64 + self.directory_bytes;
        if self.index_offset < blocks_start || index_end != Some(self.file_bytes) {
            return Err(format!(
                "an index of {} blocks at byte {} does not end a file of {} bytes",
                self.blocks, self.index_offset, self.file_bytes
            ));
        }
        Ok(())
    }

    /// The length of the block index, its checksum included.
    pub fn index_bytes(&self) -> u64 {
        u64::from(self.blocks) * INDEX_ENTRY_BYTES as u64 + CHECKSUM_BYTES as u64
    }

    /// The rows of block `block`: all blocks but the last are full.
    pub fn rows_of(&self, block: usize) -> usize {
        let block_rows = u64::from(self.block_rows);
        self.rows
            .saturating_sub(block as u64 * block_rows)
            .min(block_rows) as usize
    }
}

/// Reads little-endian numbers from the front of a slice; nothing where it is too short.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn f64(&mut self) -> Option<f64> {
        self.array().map(f64::from_le_bytes)
    }
}

const KINDS: [ColumnKind; 4] = [
    ColumnKind::Dense,
    ColumnKind::Key,
    ColumnKind::KeyList,
    ColumnKind::Time,
];
const SOURCES: [SourceType; 5] = [
    SourceType::Integer,
    SourceType::Float,
    SourceType::Text,
    SourceType::Boolean,
    SourceType::Timestamp,
];
const ROLES: [Role; 7] = [
    Role::Feature,
    Role::Label,
    Role::Weight,
    Role::Group,
    Role::Time,
    Role::Outcome,
    Role::Truth,
];
const HAS_UNIT: u8 = 1;
const HAS_RANGE: u8 = 2;

/// The place of `value` in the list of all values that the format knows.
fn code<T: PartialEq + std::fmt::Display>(list: &[T], value: &T) -> Result<u8, String> {
    list.iter()
        .position(|entry| entry == value)
        .map(|place| place as u8)
        .ok_or_else(|| format!("format version {VERSION} has no {value} columns"))
}

/// The column directory with its padding and checksum.
///
/// # Errors
/// Too many columns, or a name or unit that is too long.
pub(super) fn write_directory(columns: &[Column]) -> Result<Vec<u8>, String> {
    if columns.len() > MAX_COLUMNS {
        return Err(format!(
            "expected at most {MAX_COLUMNS} columns, got {}",
            columns.len()
        ));
    }
    let mut bytes = Vec::new();
    for column in columns {
        let unit = column.unit.as_deref().unwrap_or_default();
        for (what, text) in [("name", column.name.as_str()), ("unit", unit)] {
            if text.len() > MAX_NAME_BYTES {
                return Err(format!(
                    "a column's {what} has {} bytes, the most is {MAX_NAME_BYTES}",
                    text.len()
                ));
            }
        }
        let unit_flag = if column.unit.is_some() { HAS_UNIT } else { 0 };
        let range_flag = if column.range.is_some() { HAS_RANGE } else { 0 };
        bytes.extend([
            code(&KINDS, &column.kind)?,
            code(&SOURCES, &column.source)?,
            code(&ROLES, &column.role)?,
            unit_flag | range_flag,
        ]);
        bytes.extend((column.name.len() as u16).to_le_bytes());
        bytes.extend((unit.len() as u16).to_le_bytes());
        bytes.extend(column.name.bytes());
        bytes.extend(unit.bytes());
        for bound in column.range.iter().flatten() {
            bytes.extend(bound.to_le_bytes());
        }
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    Ok(bytes)
}

/// Reads the directory that [`write_directory`] wrote.
pub(super) fn read_directory(bytes: &[u8], columns: u32) -> Result<Vec<Column>, String> {
    let body = verified(bytes)?;
    let mut fields = Fields(body);
    let columns = (0..columns)
        .map(|number| {
            read_column(&mut fields).ok_or_else(|| format!("column {number} cannot be read"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if fields.0.len() >= ALIGNMENT {
        return Err(format!("{} bytes follow the last column", fields.0.len()));
    }
    Ok(columns)
}

fn read_column(fields: &mut Fields<'_>) -> Option<Column> {
    let kind = *KINDS.get(usize::from(fields.u8()?))?;
    let source = *SOURCES.get(usize::from(fields.u8()?))?;
    let role = *ROLES.get(usize::from(fields.u8()?))?;
    let flags = fields.u8()?;
    let name_bytes = fields.u16()?;
    let unit_bytes = fields.u16()?;
    let name = std::str::from_utf8(fields.bytes(name_bytes.into())?)
        .ok()?
        .to_owned();
    let unit = std::str::from_utf8(fields.bytes(unit_bytes.into())?)
        .ok()?
        .to_owned();
    let range = match flags & HAS_RANGE {
        0 => None,
        _ => Some([fields.f64()?, fields.f64()?]),
    };
    let unit = (flags & HAS_UNIT != 0).then_some(unit);
    Some(Column {
        name,
        kind,
        source,
        role,
        unit,
        range,
    })
}

/// Where a block lies, and the checksum of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub offset: u64,
    pub bytes: u64,
    pub checksum: u64,
}

pub(super) fn write_index(entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * INDEX_ENTRY_BYTES + CHECKSUM_BYTES);
    for entry in entries {
        bytes.extend(entry.offset.to_le_bytes());
        bytes.extend(entry.bytes.to_le_bytes());
        bytes.extend(entry.checksum.to_le_bytes());
    }
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes
}

/// Reads the index that [`write_index`] wrote; the blocks must fill the file without gaps.
pub(super) fn read_index(bytes: &[u8], header: &Header) -> Result<Vec<IndexEntry>, String> {
    let mut fields = Fields(verified(bytes)?);
    let mut offset = HEADER_BYTES as u64 + header.directory_bytes;
    let mut entries = Vec::with_capacity(fields.0.len() / INDEX_ENTRY_BYTES);
    while let (Some(start), Some(bytes), Some(checksum)) =
        (fields.u64(), fields.u64(), fields.u64())
    {
        let number = entries.len();
        if start != offset || bytes > MAX_BLOCK_BYTES || !bytes.is_multiple_of(ALIGNMENT as u64) {
            return Err(format!(
                "block {number} is said to have {bytes} bytes at byte {start}, expected byte {offset}"
            ));
        }
        offset += bytes;
        entries.push(IndexEntry {
            offset: start,
            bytes,
            checksum,
        });
    }
    if offset != header.index_offset || entries.len() != header.blocks as usize {
        return Err(format!(
            "its blocks end at byte {offset}, expected {}",
            header.index_offset
        ));
    }
    Ok(entries)
}

/// What precedes the checksum at the end of `bytes`, if the checksum is right.
fn verified(bytes: &[u8]) -> Result<&[u8], String> {
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| {
        format!(
            "expected at least {CHECKSUM_BYTES} bytes, got {}",
            bytes.len()
        )
    })?;
    if u64::from_le_bytes(*checksum) == xxh3_64(body) {
        Ok(body)
    } else {
        Err("its checksum is wrong".into())
    }
}
