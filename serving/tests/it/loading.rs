//! Which artifacts the server starts with.

use std::fs;
use std::net::TcpListener;

use crate::model::{Folder, artifact};
use crate::program::{Program, refused, refused_at};

fn assert_refused(folder: &Folder, reason: &str) {
    let (code, said) = refused(&folder.path());
    assert_eq!(code, Some(1), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(
        errors[0].starts_with("error: ") && errors[0].contains(reason),
        "{said}"
    );
}

#[test]
fn a_changed_golden_probability_is_refused() {
    let mut model = artifact(1);
    model.golden.probabilities[7] += 1e-3;
    let reason =
        "does not reproduce its golden examples: row 3, label `like`: the trainer's probability is";
    assert_refused(&Folder::with(&model), reason);
}

#[test]
fn a_changed_weight_is_refused_in_each_layer() {
    for parameter in [
        "top.weight",
        "bottom.bias",
        "cross.weight",
        "cross_low.v",
        "embedding.user.wide",
    ] {
        let mut model = artifact(1);
        let mut weight = model.weights.take(parameter).unwrap();
        weight.values.iter_mut().for_each(|value| *value += 0.05);
        model.weights.insert(parameter, weight.shape, weight.values);
        let reason = "does not reproduce its golden examples: row 0, label `";
        assert_refused(&Folder::with(&model), reason);
    }
}

#[test]
fn a_damaged_file_is_refused_by_name() {
    let folder = Folder::with(&artifact(1));
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_refused(
        &folder,
        "model.safetensors is not the file that the manifest was written with",
    );
}

#[test]
fn a_folder_that_is_no_artifact_is_refused() {
    let folder = Folder::with(&artifact(1));
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    assert_refused(&folder, "manifest.json");
    let (code, said) = refused(&folder.beside("nothing"));
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot load the artifact"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = Folder::with(&artifact(1));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = refused_at(&folder.path(), &address);
    assert_eq!(code, Some(1));
    let expected = format!(
        "error: cannot listen on {address}: the port is in use; choose another by --listen"
    );
    assert!(said.lines().any(|line| line == expected), "{said}");
}

#[test]
fn the_name_in_paths_can_be_chosen() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &["--name", "films"]);
    assert_eq!(program.get("/v2/models/films").body["name"], "films");
    assert_eq!(program.get("/v2/models/videos").status, 404);
}
