//! A checkpoint whose index or shard was changed: it is refused, or every tensor of it is read or refused.

use std::fs;
use std::sync::LazyLock;

use serde_json::json;
use streamrec::checkpoint::{Checkpoint, CheckpointFolder, Index};
use streamrec::model::Extent;
use streamrec_kernels::TensorMut;
use xxhash_rust::xxh3::xxh3_64;

use super::edits::edited;

/// A tensor of more values is not read: who reads one knows its shape.
const VALUES_MAX: usize = 1 << 16;

/// The index and the shard of one tensor of 3 rows and 2 columns, in two slices, and of a scalar.
static VALID: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let values: Vec<u8> = (0..7)
        .flat_map(|value| (value as f32).to_le_bytes())
        .collect();
    let header = json!({
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [1, 2], "data_offsets": [16, 24]},
        "c": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]},
    });
    let header = header.to_string().into_bytes();
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend_from_slice(&header);
    shard.extend_from_slice(&values);
    let slice = |key: &str, rows: [usize; 2], columns: [usize; 2], bytes: &[u8]| {
        let xxh3 = format!("{:016x}", xxh3_64(bytes));
        json!({"shard": 0, "key": key, "rows": rows, "columns": columns, "xxh3": xxh3})
    };
    let index = json!({
        "format_version": 1, "step": 7, "world_size": 1, "state": {"epoch": 1},
        "shards": [{"file": "rank-0-of-1.safetensors", "bytes": shard.len()}],
        "tensors": {
            "table": {"shape": [3, 2], "slices": [
                slice("a", [0, 2], [0, 2], &values[..16]), slice("b", [2, 3], [0, 2], &values[16..24]),
            ]},
            "scale": {"shape": [], "slices": [slice("c", [0, 1], [0, 1], &values[24..])]},
        },
    });
    (index.to_string().into_bytes(), shard)
});

/// The first byte picks a file, the others say what is changed.
pub fn check(data: &[u8]) {
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let root = tempfile::tempdir().expect("a folder");
    let folder = CheckpointFolder::new(root.path().to_owned());
    let dir = folder.of_step(7);
    fs::create_dir_all(&dir).expect("made");
    let (index, shard) = &*VALID;
    let (index, shard) = match choice % 2 {
        0 => (edited(index, edits), shard.clone()),
        _ => (index.clone(), edited(shard, edits)),
    };
    fs::write(dir.join("index.json"), &index).expect("written");
    fs::write(dir.join("rank-0-of-1.safetensors"), &shard).expect("written");
    let whole = edits.is_empty();
    let opened = Checkpoint::open(&folder, 7);
    assert!(opened.is_ok() || !whole, "the checkpoint as it was");
    let (Ok(checkpoint), Ok(index)) = (opened, Index::read(&dir.join("index.json"))) else {
        return;
    };
    drop(checkpoint.state::<serde_json::Value>());
    for (name, tensor) in &index.tensors {
        let values = tensor
            .shape
            .iter()
            .try_fold(1usize, |all, n| all.checked_mul(*n));
        if values.is_some_and(|values| values <= VALUES_MAX) {
            let extent = Extent::whole(&tensor.shape);
            let mut into = vec![f32::NAN; extent.len()];
            let shape = [extent.rows.len(), extent.columns.len()];
            let read = checkpoint.read(name, &extent, TensorMut::from_f32(&mut into, &shape));
            assert!(read.is_err() || !into.iter().any(|value| value.is_nan()) || !whole);
        }
    }
}
