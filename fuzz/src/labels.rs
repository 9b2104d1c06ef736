//! A file of labels: each is accounted for, or one error names its row.

use std::fs;

use streamrec::monitoring::Store;
use streamrec::monitoring::label_join::{LabelFile, join};

/// The file, whose first line is put before it unless the first byte says that it has its own.
pub fn check(data: &[u8]) {
    let Some((head, text)) = data.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("labels.csv");
    let first = match head % 4 {
        0 => "",
        1 => "request_id,row,label,label_time_ms\n",
        _ => "value,request_id,row,label_name,label,label_time_ms,other\n",
    };
    fs::write(&path, [first.as_bytes(), text].concat()).expect("written");
    let store = Store::new(&folder.path().join("out"));
    let file = LabelFile::open(&path).expect("a file");
    if let Ok(report) = join(&file, &store, 3_600_000) {
        assert_eq!(
            report.labels,
            report.unmatched + report.duplicates,
            "nothing was predicted"
        );
        assert_eq!(join(&file, &store, 3_600_000).expect("once more"), report);
    }
}
