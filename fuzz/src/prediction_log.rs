//! Whatever bytes a segment has, reading it ends, takes no more memory than the file is long, and every record that
//! comes out fits its model.

use streamrec_serving::prediction_log::{SEGMENT_MAGIC, SegmentReader};

/// The segment as it comes, and its pieces as records.
pub fn check(data: &[u8]) {
    read(data);
    // The checksum keeps most inputs from the records, so they are framed here, too.
    let mut framed = SEGMENT_MAGIC.to_vec();
    let model = br#"{"name":"m","version":"v","labels":["a","b"],"inputs":[{"name":"x","kind":"dense","source":"float"},{"name":"k","kind":"key_list","source":"text"},{"name":"t","kind":"time","source":"timestamp"}]}"#;
    frame(&mut framed, &[&[1], model.as_slice()].concat());
    for payload in data.split(|byte| *byte == 0xA5) {
        frame(&mut framed, &[&[2], payload].concat());
    }
    read(&framed);
}

fn frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn read(bytes: &[u8]) {
    let mut reader = SegmentReader::new(bytes, bytes.len() as u64).expect("memory does not fail");
    while let Some((model, record)) = reader.next_record().expect("memory does not fail") {
        let model = &reader.models()[model];
        if !record.rows.columns.is_empty() {
            record.rows.check(&model.inputs).expect("its model's rows");
        }
        assert!(
            record.scores.is_empty()
                || record.scores.len() == record.rows.rows * model.labels.len()
        );
    }
    assert!(reader.end().is_some());
}
