//! Reads a packed file by position, from any number of threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::block::Block;
use super::format::{HEADER_BYTES, Header, HeaderError, IndexEntry, read_directory, read_index};
use super::writer::contents_checksum;
use crate::data::{Column, Error, Result, column};

/// An open packed file: its columns and where its blocks lie.
#[derive(Debug)]
pub struct PackReader {
    path: PathBuf,
    file: File,
    header: Header,
    columns: Vec<Column>,
    index: Vec<IndexEntry>,
    checksum: u64,
}

impl PackReader {
    /// Opens a file and checks its header, directory and index; blocks are checked as they are read.
    ///
    /// # Errors
    /// A file that cannot be read, of another version, cut short or changed.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::open(&path).map_err(|source| Error::io("open", &path, source))?;
        let actual = file
            .metadata()
            .map_err(|source| Error::io("read", &path, source))?
            .len();
        if actual < HEADER_BYTES as u64 {
            let problem = format!("expected at least {HEADER_BYTES} bytes, the file has {actual}");
            return Err(Error::corrupt(&path, "header", problem));
        }
        let read = |bytes: &mut [u8], offset| {
            file.read_exact_at(bytes, offset)
                .map_err(|source| Error::io("read", &path, source))
        };
        let mut header_bytes = [0; HEADER_BYTES];
        read(&mut header_bytes, 0)?;
        let header = Header::from_bytes(&header_bytes, actual).map_err(|error| match error {
            HeaderError::Version(got) => Error::Version {
                path: path.clone(),
                expected: super::format::VERSION,
                got,
            },
            HeaderError::Problem(problem) => Error::corrupt(&path, "header", problem),
        })?;
        // The header was checked against the file's true length, so neither of these can be huge.
        let mut directory = vec![0; header.directory_bytes as usize];
        read(&mut directory, HEADER_BYTES as u64)?;
        let columns = read_directory(&directory, header.columns)
            .and_then(|columns| column::check_all(&columns).map(|()| columns))
            .map_err(|problem| Error::corrupt(&path, "directory", problem))?;
        let mut index_bytes = vec![0; header.index_bytes() as usize];
        read(&mut index_bytes, header.index_offset)?;
        let index = read_index(&index_bytes, &header)
            .map_err(|problem| Error::corrupt(&path, "index", problem))?;
        let checksum = contents_checksum(&header_bytes, &directory, &index_bytes);
        Ok(Self {
            path,
            file,
            header,
            columns,
            index,
            checksum,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The columns that every row has.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The place of the column `name`.
    ///
    /// # Errors
    /// Names the columns that there are.
    pub fn column(&self, name: &str) -> Result<usize> {
        self.columns
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = self
                    .columns
                    .iter()
                    .map(|column| column.name.as_str())
                    .collect();
                Error::column(
                    &self.path,
                    name,
                    format!("there is none; there are {}", names.join(", ")),
                )
            })
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.index.len()
    }

    /// The rows of every block but the last.
    pub fn block_rows(&self) -> usize {
        self.header.block_rows as usize
    }

    /// The rows of block `block`; 0 beyond the last.
    pub fn rows_of_block(&self, block: usize) -> usize {
        self.header.rows_of(block)
    }

    /// XXH3-64 of header, directory and index, see [`PackSummary`](super::PackSummary).
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Reads all columns of block `block` over what `into` held.
    ///
    /// # Errors
    /// A block that cannot be read, or was changed.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn read_block(&self, block: usize, into: &mut Block) -> Result<()> {
        let same = into.columns.len() == self.columns.len()
            && into
                .columns
                .iter()
                .zip(&self.columns)
                .all(|(a, b)| a.kind() == b.kind);
        if same {
            into.clear();
        } else {
            *into = Block::new(&self.columns);
        }
        let all: Vec<usize> = (0..self.columns.len()).collect();
        self.append_block(block, &all, into)
    }

    /// Appends the columns `wanted` of block `block` to the columns of `into`, in the order of `wanted`.
    ///
    /// # Errors
    /// A block that cannot be read, or was changed; what `into` then holds is unspecified.
    ///
    /// # Panics
    /// If there is no such block or column, or the kinds of `into` differ.
    pub fn append_block(&self, block: usize, wanted: &[usize], into: &mut Block) -> Result<()> {
        assert_eq!(
            wanted.len(),
            into.columns.len(),
            "a column for each one wanted"
        );
        for (&from, to) in wanted.iter().zip(&into.columns) {
            assert_eq!(
                self.columns[from].kind,
                to.kind(),
                "columns of the same kinds"
            );
        }
        let IndexEntry {
            offset,
            bytes,
            checksum,
        } = self.index[block];
        let part = || format!("block {block}");
        let buffer = into.bytes_mut(bytes as usize);
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::corrupt(&self.path, part(), "the file ends inside it")
                }
                _ => Error::io("read", &self.path, source),
            })?;
        if xxh3_64(buffer) != checksum {
            return Err(Error::corrupt(&self.path, part(), "its checksum is wrong"));
        }
        into.decode(&self.columns, self.header.rows_of(block), wanted)
            .map_err(|problem| Error::corrupt(&self.path, part(), problem))
    }
}
