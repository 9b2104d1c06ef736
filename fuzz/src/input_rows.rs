//! Text that somebody wants scored or profiled: each line is a row of the model's inputs, or the one error that ends it.

use std::fs;

use streamrec::data::RawBatch;
use streamrec::data::import::{InputRows, InputSettings, SourceSchema};
use streamrec_artifact::InputColumn;

/// The first byte picks what parts fields, the second how many rows a piece has; then the file, whose first line is put
/// before it unless the third byte says that it has its own.
pub fn check(data: &[u8]) {
    let [delimiter, piece_rows, head, text @ ..] = data else {
        return;
    };
    let inputs: Vec<InputColumn> = serde_json::from_str(
        r#"[{"name":"x","kind":"dense","source":"float"},{"name":"n","kind":"key","source":"integer","required":true},
        {"name":"k","kind":"key_list","source":"text"},{"name":"t","kind":"time","source":"timestamp"},
        {"name":"b","kind":"key","source":"boolean"}]"#,
    )
    .expect("inputs");
    let delimiter = [",", "\t", "::", ";"][*delimiter as usize % 4];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rows.csv");
    let own = *head < 32;
    let first = ["x", "n", "k", "t", "b"].join(delimiter) + "\n";
    let whole = if own {
        text.to_vec()
    } else {
        [first.as_bytes(), text].concat()
    };
    fs::write(&file, whole).expect("written");
    let settings = InputSettings {
        files: vec![file],
        source: SourceSchema {
            delimiter: delimiter.into(),
            ..SourceSchema::default()
        },
        list_separator: "|".into(),
        inputs: inputs.clone(),
        keys: if own { Vec::new() } else { vec!["k".into()] },
        piece_rows: usize::from(*piece_rows).max(1),
    };
    let Ok(mut rows) = InputRows::open(settings) else {
        return;
    };
    while let Ok(Some(mut piece)) = rows.next() {
        let mut raw = RawBatch::new(&inputs);
        if piece.read(&mut raw).is_ok() {
            assert_eq!(raw.rows, piece.rows);
            raw.check(&inputs).expect("rows of these inputs");
        }
    }
}
