//! Claims about saving and loading.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use streamrec_kernels::{TensorMut, TensorRef};

use super::*;
use crate::comm::{Communicator, SingleRank};
use crate::model::{Extent, NamedSlice};

/// Two tensors that every rank holds: `[rows, 3]` and `[2]`.
fn tensors(rows: usize) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let table = (0..rows * 3).map(|i| i as f32 * 0.5).collect();
    vec![
        ("embedding.user".into(), vec![rows, 3], table),
        ("top.bias".into(), vec![2], vec![-1.0, f32::MIN_POSITIVE]),
    ]
}

fn snapshot(step: u64, rows: usize, rank: usize, size: usize) -> Snapshot {
    let tensors = tensors(rows);
    let slices = tensors.iter().map(|(name, shape, data)| {
        let extent = Extent::whole(shape).replicated(rank, size);
        NamedSlice::new(name.clone(), extent, data)
    });
    Snapshot::of(step, &step, slices).expect("JSON")
}

fn save(root: &Path, steps: &[u64], keep: usize) -> CheckpointFolder {
    let folder = CheckpointFolder::new(root.to_owned());
    let comm: Arc<dyn Communicator> = Arc::new(SingleRank);
    let mut saver = Saver::new(comm, folder.clone(), keep).expect("made");
    for step in steps {
        saver.save(snapshot(*step, 5, 0, 1)).expect("started");
    }
    saver.finish().expect("written");
    folder
}

fn read_all(checkpoint: &Checkpoint, rows: usize) -> Vec<Vec<f32>> {
    let read = |(name, shape, data): (String, Vec<usize>, Vec<f32>)| {
        let mut into = vec![0.0; data.len()];
        let extent = Extent::whole(&shape);
        let elements = TensorMut::from_f32(&mut into, &shape);
        checkpoint.read(&name, &extent, elements).expect("read");
        into
    };
    tensors(rows).into_iter().map(read).collect()
}

#[test]
fn a_checkpoint_reads_back_bit_for_bit() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[3], 2);
    let checkpoint = Checkpoint::open(&folder, 3).expect("opened");
    let expected: Vec<_> = tensors(5).into_iter().map(|t| t.2).collect();
    assert_eq!(read_all(&checkpoint, 5), expected);
    assert_eq!(checkpoint.state::<u64>().expect("a number"), 3);
    assert_eq!(
        checkpoint.names().collect::<Vec<_>>(),
        ["embedding.user", "top.bias"]
    );
}

#[test]
fn shards_of_several_ranks_make_the_whole() {
    // Five rows over three ranks, and a tensor of two rows, of which one rank has none.
    let root = tempfile::tempdir().expect("a temporary folder");
    let bootstrap = crate::comm::InProcessBootstrap::default();
    std::thread::scope(|scope| {
        for rank in 0..3 {
            let (bootstrap, root) = (bootstrap.clone(), root.path());
            scope.spawn(move || {
                let settings = crate::comm::Settings::default();
                let comm = crate::comm::SharedMemory::connect(rank, 3, &bootstrap, settings);
                let comm: Arc<dyn Communicator> = Arc::new(comm.expect("connected"));
                let folder = CheckpointFolder::new(root.to_owned());
                let mut saver = Saver::new(comm, folder, 1).expect("made");
                saver.save(snapshot(7, 5, rank, 3)).expect("started");
                saver.finish().expect("written");
            });
        }
    });
    let folder = CheckpointFolder::new(root.path().to_owned());
    let checkpoint = Checkpoint::open(&folder, 7).expect("opened");
    let expected: Vec<_> = tensors(5).into_iter().map(|t| t.2).collect();
    assert_eq!(read_all(&checkpoint, 5), expected);
}

/// Halves that two ranks wrote are read as they are, in any part, or widened; nothing is rounded.
#[test]
fn tables_in_half_precision_are_kept_as_they_are() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = CheckpointFolder::new(root.path().to_owned());
    let (comm, whole): (Arc<dyn Communicator>, _) = (Arc::new(SingleRank), Extent::whole(&[4, 6]));
    let halves: Vec<bf16> = (0..24).map(|bits| bf16::from_bits(0x3f80 + bits)).collect();
    let slice = NamedSlice {
        name: "embedding.user".into(),
        extent: whole.clone(),
        values: TensorRef::from_elements(&halves, &[4, 6]),
    };
    let snapshot = Snapshot::of(1, &(), [slice].into_iter()).expect("JSON");
    assert_eq!(snapshot.parts[0].bytes.len(), 48);
    let mut saver = Saver::new(comm, folder.clone(), 1).expect("made");
    saver.save(snapshot).expect("started");
    saver.finish().expect("written");
    let checkpoint = Checkpoint::open(&folder, 1).expect("opened");
    for extent in [
        whole.clone(),
        whole.clone().row_part(1, 2),
        whole.clone().column_part(1, 3),
    ] {
        let (rows, columns) = (extent.rows.clone(), extent.columns.clone());
        let expected: Vec<bf16> = rows
            .flat_map(|row| halves[row * 6..][columns.clone()].to_vec())
            .collect();
        let shape = [extent.rows.len(), extent.columns.len()];
        let (mut same, mut wide) = (vec![bf16::ZERO; extent.len()], vec![0.0; extent.len()]);
        let into = TensorMut::from_elements(&mut same, &shape);
        checkpoint
            .read("embedding.user", &extent, into)
            .expect("as they are");
        assert_eq!(same, expected);
        let into = TensorMut::from_f32(&mut wide, &shape);
        checkpoint
            .read("embedding.user", &extent, into)
            .expect("widened");
        let expected: Vec<f32> = expected.into_iter().map(bf16::to_f32).collect();
        assert_eq!(wide, expected);
    }
    let mut others = [f16::ZERO; 24];
    let into = TensorMut::from_elements(&mut others, &[4, 6]);
    let error = checkpoint
        .read("embedding.user", &whole, into)
        .expect_err("refused");
    let text = error.to_string();
    assert!(
        text.contains("stored in bf16, expected f16") && text.contains("train.table_precision"),
        "{text}"
    );
}

#[test]
fn only_the_newest_and_the_best_stay() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[1, 2], 2);
    folder
        .set_best(&Best { step: 1, loss: 0.5 })
        .expect("written");
    let folder = save(folder.root(), &[3, 4, 5], 2);
    assert_eq!(folder.complete().expect("listed"), [1, 4, 5]);
    assert_eq!(folder.latest().expect("listed"), Some(5));
}

#[test]
fn best_json_is_mended_from_the_state_of_the_checkpoint() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[1, 2], 2);
    let (old, new) = (Best { step: 1, loss: 0.5 }, Best { step: 2, loss: 0.4 });
    folder.set_best(&old).expect("written");
    // As after a crash between the index and best.json; then as without later checkpoints.
    for best in [Some(new), Some(old), None] {
        folder.repair_best(best.as_ref()).expect("repaired");
        assert_eq!(folder.best().expect("read"), best);
    }
}

#[test]
fn a_long_write_and_read_tell_that_they_get_on() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = CheckpointFolder::new(root.path().to_owned());
    let counter = || {
        let ticks = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ticks);
        let tick: Tick = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (ticks, tick)
    };
    let (written, tick) = counter();
    let comm: Arc<dyn Communicator> = Arc::new(SingleRank);
    let mut saver = Saver::new(comm, folder.clone(), 1)
        .expect("made")
        .with_tick(tick);
    let rows = 4_000_000; // 48 MB
    saver.save(snapshot(1, rows, 0, 1)).expect("started");
    saver.finish().expect("written");
    let (read, tick) = counter();
    let checkpoint = Checkpoint::open(&folder, 1)
        .expect("opened")
        .with_tick(tick);
    read_all(&checkpoint, rows);
    for ticks in [written, read] {
        assert!(ticks.load(Ordering::Relaxed) >= 3, "{ticks:?}");
    }
}

#[test]
fn a_folder_without_an_index_is_no_checkpoint_and_is_cleaned() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[1, 2], 2);
    fs::remove_file(folder.of_step(2).join("index.json")).expect("removed");
    assert_eq!(folder.latest().expect("listed"), Some(1));
    let missing = Checkpoint::open(&folder, 2).expect_err("no index");
    assert!(matches!(missing, CheckpointError::Missing { .. }));
    save(root.path(), &[], 2);
    assert!(!folder.of_step(2).exists());
}

#[test]
fn damage_is_named_and_never_loaded() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[1], 1);
    let path = folder.of_step(1).join("rank-0-of-1.safetensors");
    let whole = fs::read(&path).expect("read");

    let mut flipped = whole.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    fs::write(&path, &flipped).expect("written");
    let checkpoint = Checkpoint::open(&folder, 1).expect("the header is whole");
    let error = checkpoint
        .read(
            "top.bias",
            &Extent::whole(&[2]),
            TensorMut::from_f32(&mut [0.0; 2], &[2]),
        )
        .expect_err("a flipped bit");
    assert!(
        error
            .to_string()
            .contains("`top.bias` does not match its checksum"),
        "{error}"
    );

    for length in [0, 7, 8, 20, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("written");
        let error = Checkpoint::open(&folder, 1)
            .expect_err("truncated")
            .to_string();
        assert!(error.contains(&format!("found {length}")), "{error}");
    }
    let index = folder.of_step(1).join("index.json");
    fs::write(&index, "{").expect("written");
    let error = Checkpoint::open(&folder, 1)
        .expect_err("no JSON")
        .to_string();
    assert!(error.contains("not an index"), "{error}");
}

#[test]
fn another_model_is_refused_with_both_shapes() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[1], 1);
    let checkpoint = Checkpoint::open(&folder, 1).expect("opened");
    let error = checkpoint
        .read(
            "embedding.user",
            &Extent::whole(&[6, 3]),
            TensorMut::from_f32(&mut [0.0; 18], &[18]),
        )
        .expect_err("another shape")
        .to_string();
    assert!(
        error.contains("[5, 3]") && error.contains("[6, 3]"),
        "{error}"
    );
    let error = checkpoint
        .read(
            "x",
            &Extent::whole(&[1]),
            TensorMut::from_f32(&mut [0.0], &[1]),
        )
        .expect_err("no such tensor");
    assert!(error.to_string().contains("`x` is not in it"), "{error}");
}

#[test]
fn a_failed_write_is_an_error_and_keeps_the_last_checkpoint() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = save(root.path(), &[1], 2);
    let comm = Arc::new(SingleRank);
    let mut saver = Saver::new(comm, folder.clone(), 2).expect("made");
    // A file stands where the next checkpoint's folder should be.
    fs::write(folder.of_step(2), "").expect("written");
    saver.save(snapshot(2, 5, 0, 1)).expect("started");
    let error = saver.finish().expect_err("in the way").to_string();
    assert!(
        error.contains("cannot make") && error.contains("step-000000000002"),
        "{error}"
    );
    assert_eq!(folder.latest().expect("listed"), Some(1));
    Checkpoint::open(&folder, 1).expect("still whole");
}
