//! An artifact whose files were changed, digests made right: it is refused, or it encodes and is served.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use streamrec_artifact::{
    Artifact, Encoded, Encoder, FileDigest, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Manifest,
    PROFILE_FILE, VERDICT_FILE, Verdict,
};
use streamrec_serving::ranker::Ranker;
use xxhash_rust::xxh3::xxh3_128;

use super::edits::edited;

#[allow(
    dead_code,
    missing_docs,
    reason = "shared with the artifact's own tests, which use all of it"
)]
#[path = "../../artifact/tests/boundary/fixture.rs"]
mod fixture;

const FILES: [&str; 5] = [
    MANIFEST_FILE,
    MODEL_FILE,
    GOLDEN_FILE,
    PROFILE_FILE,
    VERDICT_FILE,
];
const VERDICT: &str = r#"{"format_version": 1, "outcome": "pass", "gate": "g", "gate_text": "", "created": "now",
"data_version": "v", "compared_with": {}, "findings": [], "files": {}}"#;

/// An artifact on the disk, for as long as the process lives.
static VALID: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("artifact");
    fixture::artifact().write(&dir).expect("written");
    fs::write(dir.join(VERDICT_FILE), VERDICT).expect("written");
    (folder, dir)
});

/// The first byte picks a file and whether its digest is made right, the others say what is changed.
pub fn check(data: &[u8]) {
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let of = |name: &str| fs::read(VALID.1.join(name)).expect("a file");
    let changed = FILES[*choice as usize % FILES.len()];
    let bytes = edited(&of(changed), edits);
    for name in fs::read_dir(&VALID.1).expect("a folder").flatten() {
        let name = name.file_name().into_string().expect("a name");
        let bytes = if name == changed {
            bytes.clone()
        } else {
            of(&name)
        };
        fs::write(folder.path().join(name), bytes).expect("written");
    }
    if *choice < 200 && changed != MANIFEST_FILE {
        let mut manifest = Manifest::from_json(&of(MANIFEST_FILE)).expect("a manifest");
        if let Some(digest) = manifest.files.get_mut(changed) {
            *digest = FileDigest {
                bytes: bytes.len() as u64,
                xxh3_128: format!("{:032x}", xxh3_128(&bytes)),
            };
        }
        let text = manifest.to_json().expect("JSON");
        fs::write(folder.path().join(MANIFEST_FILE), text).expect("written");
    }
    drop(Verdict::read(folder.path()));
    if let Ok(artifact) = Artifact::read(folder.path()) {
        let encoder = Encoder::new(&artifact.manifest.schema, &artifact.vocabularies);
        let encoder = encoder.expect("what was read encodes");
        let mut encoded = Encoded::default();
        // Rows of the model before may be none of this one.
        drop(encoder.encode(&fixture::raw(0, 6), &mut encoded));
        drop(Ranker::load(folder.path()));
    }
}
