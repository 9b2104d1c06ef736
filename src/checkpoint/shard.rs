//! One safetensors file of a checkpoint: written by one rank, read by position.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use streamrec_kernels::DType;

use super::index::{ShardFile, Slice, checksum};
use super::{CheckpointError, Snapshot};

/// The format's own bound on a header.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// What a rank tells the others of its shard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) shard: ShardFile,
    /// `(tensor, its shape, the slice)`; the slice's shard is the rank.
    pub(super) slices: Vec<(String, Vec<usize>, Slice)>,
}

/// Bytes that are written or read between two ticks.
const CHUNK_BYTES: usize = 16 << 20;

/// Writes the shard of `rank` into `folder` and fsyncs it.
pub(super) fn write(
    folder: &Path,
    snapshot: &Snapshot,
    rank: usize,
    size: usize,
    tick: &dyn Fn(),
) -> Result<Written, CheckpointError> {
    let file = format!("rank-{rank}-of-{size}.safetensors");
    let path = folder.join(&file);
    let bytes = write_file(&path, snapshot, tick).map_err(CheckpointError::file("write", &path))?;
    let slice = |part: &super::TensorPart| {
        tick();
        let slice = Slice {
            shard: rank,
            key: part.key(),
            rows: [part.extent.rows.start, part.extent.rows.end],
            columns: [part.extent.columns.start, part.extent.columns.end],
            xxh3: checksum(&part.bytes),
        };
        (part.name.clone(), part.extent.shape.clone(), slice)
    };
    Ok(Written {
        shard: ShardFile { file, bytes },
        slices: snapshot.parts.iter().map(slice).collect(),
    })
}

/// The header is the crate's, the body streams: no second copy of the snapshot.
fn write_file(path: &Path, snapshot: &Snapshot, tick: &dyn Fn()) -> io::Result<u64> {
    let mut offset = 0;
    let info = |part: &super::TensorPart| {
        let start = offset;
        offset += part.bytes.len();
        let info = TensorInfo {
            dtype: match part.dtype {
                DType::Bf16 => Dtype::BF16,
                DType::F16 => Dtype::F16,
                _ => Dtype::F32,
            },
            shape: part.extent.local_shape(),
            data_offsets: (start, offset),
        };
        (part.key(), info)
    };
    let infos = snapshot.parts.iter().map(info).collect();
    let metadata = Metadata::new(None, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut unsynced = 0;
    for part in &snapshot.parts {
        for chunk in part.bytes.chunks(CHUNK_BYTES) {
            file.write_all(chunk)?;
            unsynced += chunk.len();
            // A write alone only fills the page cache: the wait for a slow disk would all come in
            // one last sync, without a tick.
            if unsynced >= CHUNK_BYTES {
                file.flush()?;
                file.get_ref().sync_data()?;
                unsynced = 0;
                tick();
            }
        }
    }
    let file = file.into_inner()?;
    file.sync_all()?;
    tick();
    Ok(8 + header.len() as u64 + offset as u64)
}

/// A shard open for reading.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    body: u64,
}

impl Shard {
    /// Opens a shard and reads its header; no length in it is believed before it is checked.
    pub(super) fn open(path: PathBuf, expected_bytes: u64) -> Result<Self, CheckpointError> {
        let read = || CheckpointError::file("read", &path);
        let file = File::open(&path).map_err(read())?;
        let bytes = file.metadata().map_err(read())?.len();
        let damaged = |problem| CheckpointError::damaged(&path, problem);
        if bytes != expected_bytes || bytes < 8 {
            let problem = format!("expected {expected_bytes} bytes, found {bytes}");
            return Err(damaged(problem));
        }
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(read())?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length > bytes - 8 {
            return Err(damaged(format!("a header of {length} bytes in {bytes}")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(read())?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("not a safetensors header: {error}")))?;
        let body = 8 + length;
        if metadata.data_len() as u64 != bytes - body {
            return Err(damaged("its tensors do not fill the file".into()));
        }
        Ok(Self {
            path,
            file,
            metadata,
            body,
        })
    }

    /// The type of a slice's elements.
    pub(super) fn dtype(&self, slice: &Slice) -> Result<DType, CheckpointError> {
        match self.info(slice)?.dtype {
            Dtype::F32 => Ok(DType::F32),
            Dtype::BF16 => Ok(DType::Bf16),
            Dtype::F16 => Ok(DType::F16),
            other => {
                let key = &slice.key;
                let problem = format!("tensor `{key}`: expected F32, BF16 or F16, found {other:?}");
                Err(CheckpointError::damaged(&self.path, problem))
            }
        }
    }

    fn info(&self, slice: &Slice) -> Result<&TensorInfo, CheckpointError> {
        let key = &slice.key;
        let missing = || CheckpointError::damaged(&self.path, format!("tensor `{key}` is missing"));
        self.metadata.info(key).ok_or_else(missing)
    }

    /// Reads the bytes of one slice (`[rows, columns]`) into `bytes` and checks their sum.
    pub(super) fn read(
        &self,
        slice: &Slice,
        bytes: &mut [u8],
        tick: &dyn Fn(),
    ) -> Result<(), CheckpointError> {
        let damaged = |problem: String| CheckpointError::damaged(&self.path, problem);
        let (key, info) = (&slice.key, self.info(slice)?);
        let (start, end) = info.data_offsets;
        if end - start != bytes.len() {
            return Err(damaged(format!(
                "tensor `{key}`: expected {} bytes, found {} of {:?}",
                bytes.len(),
                end - start,
                info.dtype
            )));
        }
        let mut offset = self.body + start as u64;
        for chunk in bytes.chunks_mut(CHUNK_BYTES) {
            self.file
                .read_exact_at(chunk, offset)
                .map_err(CheckpointError::file("read", &self.path))?;
            offset += chunk.len() as u64;
            tick();
        }
        if checksum(bytes) == slice.xxh3 {
            Ok(())
        } else {
            Err(damaged(format!(
                "tensor `{key}` does not match its checksum"
            )))
        }
    }
}
