//! Tensor files: safetensors, read by position and never believed before it is bounded.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Reading allocates a tensor only after its byte range
//! was found to lie inside the file, and goes straight into typed memory: a table is never in memory twice.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError};

#[cfg(not(target_endian = "little"))]
compile_error!("tensor files are little-endian and are read without conversion");

/// The longest header of a tensor file.
pub const HEADER_BYTES_MAX: u64 = 64 << 20;
const LENGTH_BYTES: u64 = 8;

/// A type of tensor elements.
pub(crate) trait Element: Pod {
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
impl Element for i64 {
    const DTYPE: Dtype = Dtype::I64;
}
impl Element for u64 {
    const DTYPE: Dtype = Dtype::U64;
}
impl Element for u32 {
    const DTYPE: Dtype = Dtype::U32;
}

/// The tensors of a file to be.
#[derive(Debug, Default)]
pub(crate) struct TensorFileWriter<'a> {
    tensors: Vec<(String, TensorView<'a>)>,
}

impl<'a> TensorFileWriter<'a> {
    /// Adds a tensor, row-major.
    pub(crate) fn add<T: Element>(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        values: &'a [T],
    ) -> Result<(), SafeTensorError> {
        let view = TensorView::new(T::DTYPE, shape.to_vec(), bytemuck::cast_slice(values))?;
        self.tensors.push((name.into(), view));
        Ok(())
    }

    /// Writes the file and waits until it is on the disk.
    pub(crate) fn write(self, path: &Path) -> Result<(), TensorFileError> {
        let about = HashMap::from([("producer".to_owned(), "streamrec".to_owned())]);
        safetensors::serialize_to_file(self.tensors, Some(about), path).map_err(|source| {
            TensorFileError::Write {
                path: path.to_owned(),
                source,
            }
        })?;
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|source| TensorFileError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

/// An open tensor file, its header read and checked.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self, TensorFileError> {
        let io = |source| TensorFileError::Io {
            path: path.to_owned(),
            source,
        };
        let damaged = |reason: String| TensorFileError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes < LENGTH_BYTES {
            return Err(damaged(format!(
                "it has {bytes} bytes, its header's length alone takes {LENGTH_BYTES}"
            )));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact_at(&mut length, 0).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX.min(bytes - LENGTH_BYTES) {
            return Err(damaged(format!(
                "its header claims {length} bytes of a file of {bytes}"
            )));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, LENGTH_BYTES).map_err(io)?;
        // Parsing also checks that the byte ranges tile the data and agree with shapes and types.
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("its header is not valid: {error}")))?;
        let data_start = LENGTH_BYTES + length;
        let expected = data_start + metadata.data_len() as u64;
        if expected != bytes {
            return Err(damaged(format!(
                "it has {bytes} bytes, its header asks for {expected}"
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            metadata,
            data_start,
        })
    }

    /// The names of its tensors, in the order of their bytes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], TensorFileError> {
        Ok(&self.info(name)?.shape)
    }

    /// The values of a tensor, row-major.
    pub(crate) fn read<T: Element>(&self, name: &str) -> Result<Vec<T>, TensorFileError> {
        let info = self.info(name)?;
        if info.dtype != T::DTYPE {
            return Err(TensorFileError::Dtype {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: T::DTYPE,
                got: info.dtype,
            });
        }
        let (start, end) = info.data_offsets;
        let mut values = vec![T::zeroed(); (end - start) / size_of::<T>()];
        self.file
            .read_exact_at(
                bytemuck::cast_slice_mut(&mut values),
                self.data_start + start as u64,
            )
            .map_err(|source| TensorFileError::Io {
                path: self.path.clone(),
                source,
            })?;
        Ok(values)
    }

    /// The values of a tensor that must have this shape.
    pub(crate) fn read_shaped<T: Element>(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<T>, TensorFileError> {
        let got = self.shape(name)?;
        if got != shape {
            return Err(TensorFileError::Shape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                got: got.to_vec(),
            });
        }
        self.read(name)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, TensorFileError> {
        self.metadata
            .info(name)
            .ok_or_else(|| TensorFileError::Missing {
                path: self.path.clone(),
                tensor: name.to_owned(),
            })
    }
}

/// A tensor file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum TensorFileError {
    #[error("cannot access {}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        source: SafeTensorError,
    },
    #[error("{} is damaged: {reason}; fetch the artifact again", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    Missing { path: PathBuf, tensor: String },
    #[error("{}: tensor `{tensor}` is {got:?}, expected {expected:?}", path.display())]
    Dtype {
        path: PathBuf,
        tensor: String,
        expected: Dtype,
        got: Dtype,
    },
    #[error("{}: tensor `{tensor}` has shape {got:?}, expected {expected:?}", path.display())]
    Shape {
        path: PathBuf,
        tensor: String,
        expected: Vec<usize>,
        got: Vec<usize>,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(values: &[f32], keys: &[u64]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut writer = TensorFileWriter::default();
        writer.add("values", &[values.len(), 1], values).unwrap();
        writer.add("keys", &[keys.len()], keys).unwrap();
        writer.write(&path).unwrap();
        (folder, path)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_written_is_read(
            values in prop::collection::vec(any::<f32>(), 0..50), keys in prop::collection::vec(any::<u64>(), 0..50),
        ) {
            let (_folder, path) = written(&values, &keys);
            let file = TensorFile::open(&path).unwrap();
            let read: Vec<f32> = file.read_shaped("values", &[values.len(), 1]).unwrap();
            prop_assert!(read.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
            prop_assert_eq!(file.read::<u64>("keys").unwrap(), keys);
        }

        #[test]
        fn arbitrary_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            std::fs::write(&path, bytes).unwrap();
            prop_assert!(TensorFile::open(&path).is_err());
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let (_folder, path) = written(&[1.0, 2.0], &[3]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = TensorFile::open(&path).unwrap_err();
            assert!(
                matches!(error, TensorFileError::Damaged { .. }),
                "{length}: {error}"
            );
        }
        std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(TensorFile::open(&path).is_err(), "a byte too many");
    }

    #[test]
    fn a_header_that_claims_the_world_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert!(matches!(
            TensorFile::open(&path).unwrap_err(),
            TensorFileError::Damaged { .. }
        ));
    }

    #[test]
    fn another_type_or_shape_is_refused() {
        let (_folder, path) = written(&[1.0, 2.0], &[3]);
        let file = TensorFile::open(&path).unwrap();
        assert!(matches!(
            file.read::<u64>("values"),
            Err(TensorFileError::Dtype { .. })
        ));
        assert!(matches!(
            file.read_shaped::<f32>("values", &[2]),
            Err(TensorFileError::Shape { .. })
        ));
        assert!(matches!(
            file.read::<f32>("bias"),
            Err(TensorFileError::Missing { .. })
        ));
    }
}
