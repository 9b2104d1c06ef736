//! Writes a packed file, which appears under its name only when it is whole.

use std::fs::{File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::block::{Block, RawValue};
use super::format::{
    HEADER_BYTES, Header, IndexEntry, MAX_BLOCK_ROWS, write_directory, write_index,
};
use crate::data::{Column, Error, Result, column};

/// Writes rows to a sibling temporary file; [`PackWriter::finish`] gives it its name.
///
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct PackWriter {
    path: PathBuf,
    file: NamedTempFile,
    columns: Vec<Column>,
    directory: Vec<u8>,
    block_rows: usize,
    rows: u64,
    /// Rows that do not yet fill a block.
    pending: Block,
    /// The bytes of the block being written.
    bytes: Vec<u8>,
    index: Vec<IndexEntry>,
    offset: u64,
}

/// What a finished packed file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSummary {
    /// Its rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// XXH3-64 of header, directory and index; the index holds the checksum of every block, so
    /// equal checksums mean equal files.
    pub checksum: u64,
}

impl PackWriter {
    /// Begins a file at `path` with blocks of `block_rows` rows.
    ///
    /// # Errors
    /// Columns that contradict themselves, a block size out of bounds, or a folder that cannot be written.
    pub fn create(path: impl Into<PathBuf>, columns: &[Column], block_rows: usize) -> Result<Self> {
        let path = path.into();
        let refuse = |problem| Error::Rows {
            path: path.clone(),
            problem,
        };
        column::check_all(columns).map_err(refuse)?;
        if !(1..=MAX_BLOCK_ROWS).contains(&block_rows) {
            return Err(refuse(format!(
                "expected 1 to {MAX_BLOCK_ROWS} rows per block, got {block_rows}"
            )));
        }
        let directory = write_directory(columns).map_err(refuse)?;
        let mut file = tempfile::Builder::new()
            .prefix(".pack-")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(&path))
            .map_err(|source| Error::io("create a temporary file beside", &path, source))?;
        // The header is written last: until then the file is not a packed file.
        file.write_all(&[0; HEADER_BYTES])
            .and_then(|()| file.write_all(&directory))
            .map_err(|source| Error::io("write", &path, source))?;
        Ok(Self {
            offset: (HEADER_BYTES + directory.len()) as u64,
            pending: Block::new(columns),
            columns: columns.to_vec(),
            path,
            file,
            directory,
            block_rows,
            rows: 0,
            bytes: Vec::new(),
            index: Vec::new(),
        })
    }

    /// The columns that every row has.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows + self.pending.rows as u64
    }

    /// Writes one row, a value for each column.
    ///
    /// # Errors
    /// A row of other columns, or a disk that refuses.
    pub fn push(&mut self, row: &[RawValue<'_>]) -> Result<()> {
        self.pending
            .push(row)
            .map_err(|problem| self.refuse(problem))?;
        if self.pending.rows == self.block_rows {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes all rows of `block`; it may have any number of them.
    ///
    /// # Errors
    /// A block of other columns or of columns of different lengths, or a disk that refuses.
    pub fn push_block(&mut self, block: &Block) -> Result<()> {
        block
            .check(&self.columns)
            .map_err(|problem| self.refuse(problem))?;
        let mut row = 0;
        while row < block.rows {
            if self.pending.rows == 0 && block.rows - row >= self.block_rows {
                self.write_block(block, row..row + self.block_rows)?;
                row += self.block_rows;
                continue;
            }
            let end = block.rows.min(row + self.block_rows - self.pending.rows);
            self.pending
                .append(block, row..end)
                .map_err(|problem| self.refuse(problem.to_string()))?;
            row = end;
            if self.pending.rows == self.block_rows {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left, syncs the file and gives it its name.
    ///
    /// # Errors
    /// A disk that refuses; no file is then left.
    pub fn finish(mut self) -> Result<PackSummary> {
        if self.pending.rows > 0 {
            self.flush()?;
        }
        let index = write_index(&self.index);
        let blocks = u32::try_from(self.index.len())
            .map_err(|_| self.refuse("too many blocks: use larger ones".into()))?;
        let header = Header {
            block_rows: self.block_rows as u32,
            rows: self.rows,
            columns: self.columns.len() as u32,
            blocks,
            directory_bytes: self.directory.len() as u64,
            index_offset: self.offset,
            file_bytes: self.offset + index.len() as u64,
        };
        let header_bytes = header.to_bytes();
        let write = |source| Error::io("write", &self.path, source);
        self.file.write_all(&index).map_err(write)?;
        self.file
            .as_file()
            .write_all_at(&header_bytes, 0)
            .map_err(write)?;
        self.file
            .as_file()
            .sync_all()
            .map_err(|source| Error::io("sync", &self.path, source))?;
        self.file
            .persist(&self.path)
            .map_err(|error| Error::io("rename a temporary file to", &self.path, error.error))?;
        sync_folder(folder(&self.path))?;
        let checksum = contents_checksum(&header_bytes, &self.directory, &index);
        Ok(PackSummary {
            rows: header.rows,
            bytes: header.file_bytes,
            checksum,
        })
    }

    /// Cuts the rows from `row` on off, and gives them to `take` in their order.
    ///
    /// # Errors
    /// A disk that refuses, or what `take` says.
    pub fn split_off(
        &mut self,
        row: u64,
        mut take: impl FnMut(&Block) -> Result<()>,
    ) -> Result<()> {
        if row >= self.rows() {
            return Ok(());
        }
        // Every written block is full.
        let block_rows = self.block_rows as u64;
        let kept = (row / block_rows).min(self.index.len() as u64);
        let cut = self.index.split_off(kept as usize);
        let pending = std::mem::replace(&mut self.pending, Block::new(&self.columns));
        self.offset = cut.first().map_or(self.offset, |first| first.offset);
        self.rows = kept * block_rows;
        let mut stay = (row - self.rows) as usize;
        let mut block = Block::new(&self.columns);
        for entry in cut {
            self.read_back(entry, &mut block)?;
            self.part(&block, &mut stay, &mut take)?;
        }
        self.part(&pending, &mut stay, &mut take)?;
        let offset = self.offset;
        let cut_file = |file: &mut File| {
            file.set_len(offset)?;
            file.seek(SeekFrom::Start(offset)).map(drop)
        };
        cut_file(self.file.as_file_mut()).map_err(|source| Error::io("cut", &self.path, source))
    }

    /// Keeps the first `stay` rows, and gives the others away.
    fn part(
        &mut self,
        block: &Block,
        stay: &mut usize,
        take: &mut impl FnMut(&Block) -> Result<()>,
    ) -> Result<()> {
        let kept = block.rows.min(*stay);
        if kept == 0 {
            return take(block);
        }
        *stay -= kept;
        let mut rest = Block::new(&self.columns);
        let copied = self
            .pending
            .append(block, 0..kept)
            .and_then(|()| rest.append(block, kept..block.rows));
        copied.map_err(|problem| self.refuse(problem.to_string()))?;
        take(&rest)
    }

    /// Reads a block that was written.
    fn read_back(&self, entry: IndexEntry, block: &mut Block) -> Result<()> {
        block.clear();
        let bytes = block.bytes_mut(entry.bytes as usize);
        self.file
            .as_file()
            .read_exact_at(bytes, entry.offset)
            .map_err(|source| Error::io("read", &self.path, source))?;
        let all: Vec<usize> = (0..self.columns.len()).collect();
        block
            .decode(&self.columns, self.block_rows, &all)
            .map_err(|problem| self.refuse(problem))
    }

    fn flush(&mut self) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        let written = self.write_block(&pending, 0..pending.rows);
        pending.clear();
        self.pending = pending;
        written
    }

    fn write_block(&mut self, block: &Block, rows: Range<usize>) -> Result<()> {
        let count = rows.len() as u64;
        block
            .encode(rows, &mut self.bytes)
            .map_err(|problem| self.refuse(problem))?;
        self.file
            .write_all(&self.bytes)
            .map_err(|source| Error::io("write", &self.path, source))?;
        let bytes = self.bytes.len() as u64;
        self.index.push(IndexEntry {
            offset: self.offset,
            bytes,
            checksum: xxh3_64(&self.bytes),
        });
        self.offset += bytes;
        self.rows += count;
        Ok(())
    }

    fn refuse(&self, problem: String) -> Error {
        Error::Rows {
            path: self.path.clone(),
            problem,
        }
    }
}

/// What identifies the contents of a packed file.
pub(super) fn contents_checksum(header: &[u8], directory: &[u8], index: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(directory);
    hash.update(index);
    hash.digest()
}

/// The folder that a file lies in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes renames in a folder survive a power failure.
pub(in crate::data) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| Error::io("sync", folder, source))
}
