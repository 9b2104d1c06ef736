use proptest::collection::vec;
use proptest::prelude::*;
use streamrec_artifact::{
    ColumnKind, InputColumn, MISSING_KEY, MISSING_TIME, RawBatch, RawColumn, SourceType,
};

use super::frame::push_frame;
use super::segment::MODEL_FRAME;
use super::*;

fn model(labels: usize) -> LoggedModel {
    let input = |name: &str, kind, source| InputColumn {
        name: name.into(),
        kind,
        source,
        unit: None,
        range: None,
        required: false,
    };
    LoggedModel {
        name: "videos".into(),
        version: "0123456789abcdef".into(),
        labels: (0..labels).map(|label| format!("label {label}")).collect(),
        inputs: vec![
            input("age", ColumnKind::Dense, SourceType::Float),
            input("user", ColumnKind::Key, SourceType::Integer),
            input("tags", ColumnKind::KeyList, SourceType::Text),
            input("at", ColumnKind::Time, SourceType::Timestamp),
        ],
    }
}

fn rows() -> impl Strategy<Value = RawBatch> {
    let row = (
        prop_oneof![Just(f32::NAN), any::<f32>()],
        prop_oneof![Just(MISSING_KEY), any::<u64>()],
        vec(any::<u64>(), 0..4),
        prop_oneof![Just(MISSING_TIME), any::<i64>()],
    );
    vec(row, 0..6).prop_map(|rows| {
        let (mut offsets, mut keys) = (vec![0], Vec::new());
        for (_, _, tags, _) in &rows {
            keys.extend(tags);
            offsets.push(keys.len() as u32);
        }
        RawBatch {
            rows: rows.len(),
            columns: vec![
                RawColumn::Dense(rows.iter().map(|row| row.0).collect()),
                RawColumn::Key(rows.iter().map(|row| row.1).collect()),
                RawColumn::KeyList { offsets, keys },
                RawColumn::Time(rows.iter().map(|row| row.3).collect()),
            ],
        }
    })
}

prop_compose! {
    fn record()(
        id in "\\PC{0,60}",
        time_ms in any::<i64>(),
        status in prop_oneof![
            Just(LogStatus::Ok), Just(LogStatus::BadRequest), Just(LogStatus::Shed), Just(LogStatus::Failed)
        ],
        times in any::<[u32; 3]>(),
        read in any::<bool>(),
        rows in rows(),
        score in -1e6f32..1e6,
    ) -> LogRecord {
        let scored = status == LogStatus::Ok && read;
        LogRecord {
            request_id: id,
            time_ms,
            status,
            total_us: times[0],
            queue_us: times[1],
            compute_us: times[2],
            scores: if scored { vec![score; rows.rows * 2] } else { Vec::new() },
            rows: if read { rows } else { RawBatch::default() },
        }
    }
}

fn segment(records: &[LogRecord]) -> Vec<u8> {
    let mut bytes = SEGMENT_MAGIC.to_vec();
    push_frame(&mut bytes, |out| {
        out.push(MODEL_FRAME);
        out.extend(serde_json::to_vec(&model(2)).unwrap());
    });
    for record in records {
        push_frame(&mut bytes, |out| record.encode(0, out));
    }
    bytes
}

fn read(bytes: &[u8]) -> (Vec<LogRecord>, SegmentEnd) {
    let mut reader = SegmentReader::new(bytes, bytes.len() as u64).unwrap();
    let mut records = Vec::new();
    while let Some((place, record)) = reader.next_record().unwrap() {
        assert_eq!(place, 0);
        records.push(record);
    }
    assert_eq!(reader.unreadable(), 0);
    (records, reader.end().unwrap().clone())
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(records in vec(record(), 0..8)) {
        let (read, end) = read(&segment(&records));
        prop_assert_eq!(read, records);
        prop_assert_eq!(end, SegmentEnd::Whole);
    }

    #[test]
    fn a_segment_that_is_cut_anywhere_keeps_its_whole_frames(
        records in vec(record(), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = segment(&records);
        let cut = cut.index(bytes.len());
        let (read, end) = read(&bytes[..cut]);
        prop_assert_eq!(&read[..], &records[..read.len()]);
        let whole = segment(&records[..read.len()]);
        match end {
            // Also where not even the model is whole.
            SegmentEnd::Whole => prop_assert!(cut == whole.len() || cut == SEGMENT_MAGIC.len()),
            SegmentEnd::Torn { at, bytes, .. } => prop_assert_eq!(at + bytes, cut as u64),
        }
    }

    #[test]
    fn a_bit_that_is_flipped_ends_the_reading_and_changes_no_record(
        records in vec(record(), 1..8),
        place in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut bytes = segment(&records);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let (read, end) = read(&bytes);
        prop_assert_eq!(&read[..], &records[..read.len()]);
        prop_assert!(read.len() < records.len());
        let torn = matches!(end, SegmentEnd::Torn { .. });
        prop_assert!(torn);
    }

    #[test]
    fn no_bytes_make_a_reader_fail(bytes in vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        let mut all = if magic { SEGMENT_MAGIC.to_vec() } else { Vec::new() };
        all.extend(bytes);
        let mut reader = SegmentReader::new(all.as_slice(), all.len() as u64).unwrap();
        while reader.next_record().unwrap().is_some() {}
        prop_assert!(reader.end().is_some());
    }

    #[test]
    fn no_payload_makes_a_record_that_does_not_fit_its_model(payload in vec(any::<u8>(), 0..200)) {
        let models = [model(2)];
        let payload = [&[2u8, 0], payload.as_slice()].concat();
        if let Ok((_, record)) = LogRecord::decode(&payload, &models) {
            prop_assert!(record.rows.columns.is_empty() || record.rows.check(&models[0].inputs).is_ok());
        }
    }
}

#[test]
fn names_of_segments_are_read_back() {
    let name = SegmentName::new(1_805_018_400_123, 7, 42);
    assert_eq!(name.to_string(), "1805018400123-0000000000000007-000042");
    for state in [SegmentState::Open, SegmentState::Closed] {
        let file = name.file_name(state);
        assert_eq!(
            SegmentName::parse(file.as_ref()),
            Some((name.clone(), state))
        );
    }
    for other in [
        "a.log",
        "1805018400123-0000000000000007-000042",
        ".1805018400123-0000000000000007-000042.new",
    ] {
        assert_eq!(SegmentName::parse(other.as_ref()), None, "{other}");
    }
}

#[test]
fn a_model_that_is_not_understood_ends_the_reading() {
    let mut bytes = segment(&[]);
    let whole = bytes.len() as u64;
    push_frame(&mut bytes, |out| out.extend_from_slice(b"\x01{\"name\":1}"));
    let (_, end) = read(&bytes);
    assert!(
        matches!(end, SegmentEnd::Torn { at, .. } if at == whole),
        "{end:?}"
    );
}

#[test]
fn long_ids_are_logged_by_their_hash() {
    let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
    assert_eq!(logged_id("short"), "short");
    assert!(logged_id(&long).len() < 32);
    assert_ne!(logged_id(&long), logged_id(&(long.clone() + "x")));
}
