//! The artifact's folder: what is written is read, and every damage is refused.

use std::error::Error;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use streamrec_artifact::{
    Artifact, ArtifactError, DenseStep, FileDigest, GOLDEN_FILE, MANIFEST_FILE, MODEL_CARD_FILE,
    MODEL_FILE, Manifest, PROFILE_FILE, WeightsError,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::fixture::{artifact, raw};

/// The whole chain of an error.
fn told(error: &ArtifactError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn refused(dir: &Path) -> String {
    told(&Artifact::read(dir).unwrap_err())
}

/// Writes the artifact to a fresh folder and changes the manifest's JSON.
fn with_manifest(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    artifact().write(&dir).unwrap();
    let path = dir.join(MANIFEST_FILE);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    refused(&dir)
}

/// What writing says after `change`.
fn unwritable(change: impl FnOnce(&mut Artifact)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut artifact = artifact();
    change(&mut artifact);
    let error = artifact.write(&folder.path().join("model")).unwrap_err();
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    told(&error)
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("models/today");
    let mut written = artifact();
    written.write(&dir).unwrap();
    let read = Artifact::read(&dir).unwrap();
    written.manifest.files = read.manifest.files.clone();
    assert_eq!(read, written);
    assert_eq!(read.manifest.files.len(), 3);
    let siblings = fs::read_dir(dir.parent().unwrap()).unwrap().count();
    assert_eq!(siblings, 1, "no unfinished folder stays");
}

#[test]
fn an_existing_folder_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let error = artifact().write(folder.path()).unwrap_err();
    assert!(matches!(error, ArtifactError::Exists { .. }));
}

#[test]
fn a_truncated_or_changed_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    artifact().write(&dir).unwrap();
    for file in [MODEL_FILE, GOLDEN_FILE, PROFILE_FILE] {
        let path = dir.join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(refused(&dir).contains("is not the file that the manifest was written with"));
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(refused(&dir).contains("fetch the artifact again"));
        fs::remove_file(&path).unwrap();
        assert!(refused(&dir).contains(&format!("cannot access {}", path.display())));
        fs::write(&path, whole).unwrap();
    }
    Artifact::read(&dir).unwrap();
    let manifest = fs::read(dir.join(MANIFEST_FILE)).unwrap();
    fs::write(dir.join(MANIFEST_FILE), &manifest[..manifest.len() / 2]).unwrap();
    assert!(refused(&dir).contains("the manifest is not valid"));
}

#[test]
fn a_truncated_file_is_refused_even_with_a_matching_digest() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    artifact().write(&dir).unwrap();
    for file in [MODEL_FILE, GOLDEN_FILE] {
        let whole = fs::read(dir.join(file)).unwrap();
        let manifest = fs::read(dir.join(MANIFEST_FILE)).unwrap();
        let cut = &whole[..whole.len() - 4];
        fs::write(dir.join(file), cut).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let digest = FileDigest {
            bytes: cut.len() as u64,
            xxh3_128: format!("{:032x}", xxh3_128(cut)),
        };
        json["files"][file] = serde_json::to_value(digest).unwrap();
        fs::write(dir.join(MANIFEST_FILE), json.to_string()).unwrap();
        assert!(refused(&dir).contains("is damaged"), "{}", refused(&dir));
        fs::write(dir.join(file), whole).unwrap();
        fs::write(dir.join(MANIFEST_FILE), manifest).unwrap();
    }
}

#[test]
fn another_version_is_called_by_its_name() {
    let told = with_manifest(|json| {
        json["format_version"] = 2.into();
        json["something_new"] = true.into();
    });
    assert!(
        told.contains("format version 2, this program reads version 1"),
        "{told}"
    );
}

#[test]
fn unknown_fields_are_refused() {
    for at in [
        "",
        "/schema",
        "/schema/inputs/0",
        "/schema/dense/0",
        "/training",
        "/graph",
        "/graph/nodes/0",
    ] {
        let told = with_manifest(|json| json.pointer_mut(at).unwrap()["surprise"] = 1.into());
        assert!(told.contains("unknown field `surprise`"), "{at}: {told}");
    }
}

#[test]
fn a_missing_digest_is_refused() {
    let told =
        with_manifest(|json| drop(json["files"].as_object_mut().unwrap().remove(MODEL_FILE)));
    assert!(told.contains("no digest of model.safetensors"), "{told}");
}

#[test]
fn a_vocabulary_that_disagrees_with_its_table_is_refused() {
    let told = with_manifest(|json| {
        let rows = json["schema"]["tables"][0]["rows"].as_u64().unwrap();
        json["schema"]["tables"][0]["rows"] = (rows + 1).into();
    });
    assert!(
        told.contains("table `user` has 34 rows, its encoding and vocabulary make 33"),
        "{told}"
    );
}

#[test]
fn a_graph_that_disagrees_with_the_weights_is_refused() {
    let told =
        with_manifest(|json| json["graph"]["nodes"][3]["op"]["linear"]["bias"] = false.into());
    assert!(
        told.contains("weights `top.bias` belong to no parameter of the graph"),
        "{told}"
    );
    let told = with_manifest(|json| {
        json["graph"]["tables"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|table| table["dim"] = 2.into());
        json["graph"]["nodes"][3]["op"]["linear"]["inputs"] = 13.into();
    });
    assert!(
        told.contains(
            "parameter `top.weight` has shape [1, 23] (23 values), the graph asks for [1, 13]"
        ),
        "{told}"
    );
}

#[test]
fn another_transform_is_caught_by_the_golden_rows() {
    let told = with_manifest(|json| {
        let step = &mut json["schema"]["dense"][0]["steps"][1]["standardise"]["mean"];
        *step = (step.as_f64().unwrap() + 0.5).into();
    });
    assert!(
        told.contains("golden row 0: feature `duration` encodes to"),
        "{told}"
    );
    let told = with_manifest(|json| {
        json["schema"]["categorical"][3]["encoding"]["hour_of_day"]["time_zone"] = "UTC".into();
    });
    assert!(told.contains("feature `hour` encodes to"), "{told}");
}

#[test]
fn missing_wrong_and_infinite_weights_are_not_written() {
    let told = unwritable(|artifact| drop(artifact.weights.take("top.bias")));
    assert!(
        told.contains("weights of parameter `top.bias` are missing"),
        "{told}"
    );
    let told = unwritable(|artifact| artifact.weights.insert("top.bias", vec![2], vec![0.0; 2]));
    assert!(told.contains("`top.bias` has shape [2]"), "{told}");
    let told = unwritable(|artifact| artifact.weights.insert("top.bias", vec![1], vec![f32::NAN]));
    assert!(told.contains("`top.bias` is NaN at 0"), "{told}");
    let told = unwritable(|artifact| artifact.weights.insert("top.gain", vec![1], vec![1.0]));
    assert!(told.contains("`top.gain` belong to no parameter"), "{told}");
}

#[test]
fn metrics_profiles_and_golden_rows_that_do_not_fit_are_not_written() {
    let told = unwritable(|artifact| {
        _ = artifact
            .manifest
            .metrics
            .insert("test.auc".into(), f64::NAN)
    });
    assert!(told.contains("metric `test.auc` is NaN"), "{told}");
    let told = unwritable(|artifact| drop(artifact.profile.inputs.pop()));
    assert!(told.contains("the profile describes inputs"), "{told}");
    let told = unwritable(|artifact| artifact.golden.logits.truncate(7));
    assert!(told.contains("logits has length 7, expected 8"), "{told}");
    let told = unwritable(|artifact| artifact.golden.raw = raw(3, 8));
    assert!(told.contains("golden row 0"), "{told}");
}

#[test]
fn weights_are_checked_against_the_graph_by_reading_too() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    artifact().write(&dir).unwrap();
    // A NaN in place of the last weight, with the digest that belongs to it.
    let path = dir.join(MODEL_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join(MANIFEST_FILE)).unwrap()).unwrap();
    json["files"][MODEL_FILE]["xxh3_128"] = format!("{:032x}", xxh3_128(&bytes)).into();
    fs::write(dir.join(MANIFEST_FILE), json.to_string()).unwrap();
    let error = Artifact::read(&dir).unwrap_err();
    assert!(
        matches!(
            error,
            ArtifactError::Weights(WeightsError::NotFinite { .. })
        ),
        "{error:?}"
    );
}

#[test]
fn the_model_card_tells_measured_values() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    artifact().write(&dir).unwrap();
    let card = fs::read_to_string(dir.join(MODEL_CARD_FILE)).unwrap();
    let expected = [
        "---\nlibrary_name: streamrec\n",
        "    - type: \"test.auc\"\n      value: 0.30000000000000004\n",
        "| Data | `invented@1` |",
        "| duration | number dense |  |  | no | 10.00 % |",
        "| click | 0.500000 | 0.400000 |",
    ];
    for text in expected {
        assert!(card.contains(text), "{text:?} in\n{card}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn fitted_numbers_survive_the_manifest_to_the_bit(
        mean in any::<f64>().prop_filter("finite", |x| x.is_finite()),
        std in 1e-300f64..1e300,
        keys in prop::collection::vec(any::<u64>(), 0..4),
        seed: u64,
    ) {
        let mut manifest = artifact().manifest;
        manifest.schema.dense[0].steps = vec![DenseStep::Standardise { mean, std }];
        manifest.schema.inputs[0].range = Some([-std, std]);
        manifest.schema.inputs[0].unit = Some(format!("{keys:?} \"\u{1f600}\n"));
        manifest.metrics.insert("a".into(), mean);
        manifest.seed = seed;
        let read = Manifest::from_json(manifest.to_json().unwrap().as_bytes()).unwrap();
        prop_assert_eq!(read, manifest);
    }

    #[test]
    fn a_changed_byte_never_panics_and_never_smuggles_in_what_cannot_be_written(at: usize, byte: u8) {
        let mut json = artifact().manifest.to_json().unwrap().into_bytes();
        let at = at % json.len();
        json[at] = byte;
        if let Ok(read) = Manifest::from_json(&json) {
            let again = Manifest::from_json(read.to_json().unwrap().as_bytes()).unwrap();
            prop_assert_eq!(again, read);
        }
    }
}
