//! Rows as a caller has them: sent as JSON to the server, and as raw values to the reference.

use serde_json::{Value, json};
use streamrec_artifact::{
    ColumnKind, InputColumn, MISSING_KEY, MISSING_TIME, RawBatch, RawColumn, SourceType, key,
};

/// One candidate for one user.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub age: Option<f64>,
    pub clicks: Option<i64>,
    pub views: Option<i64>,
    pub premium: Option<bool>,
    pub user: i64,
    pub device: Option<&'static str>,
    pub tags: Vec<&'static str>,
    pub friends: Vec<i64>,
    pub at: Option<i64>,
    pub bid: Option<f64>,
}

const DEVICES: [&str; 4] = ["phone", "tablet", "television", "a device nobody has seen"];
const TAGS: [&str; 6] = ["music", "news", "sport", "film", "cats", "dogs"];

impl Row {
    /// The `index`-th of many different rows: values missing, lists empty and long, keys unseen.
    pub fn nth(index: u64) -> Self {
        let random = |salt: u64, below: u64| key::hash(index * 16 + salt) % below;
        let present = |salt: u64| random(salt, 5) > 0;
        Self {
            age: present(0).then(|| random(1, 900) as f64 / 10.0),
            clicks: present(2).then(|| random(3, 10) as i64),
            views: present(2).then(|| 10 + random(4, 90) as i64),
            premium: present(5).then(|| random(6, 2) == 1),
            user: random(7, 8) as i64 - 1,
            device: present(8).then(|| DEVICES[random(9, 4) as usize]),
            tags: (0..random(10, 6))
                .map(|tag| TAGS[((random(11, 6) + tag) % 6) as usize])
                .collect(),
            friends: (0..random(12, 4))
                .map(|friend| (random(13, 9) + friend) as i64)
                .collect(),
            at: present(14).then(|| random(15, 1 << 41) as i64),
            bid: present(15).then(|| random(0, 100) as f64 / 100.0),
        }
    }

    /// Different rows from the `first`-th on.
    pub fn many(first: u64, count: u64) -> Vec<Self> {
        (first..first + count).map(Self::nth).collect()
    }
}

/// What the model of these tests takes, in the order of [`raw`]'s columns.
pub fn inputs() -> Vec<InputColumn> {
    let input = |name: &str, kind, source| InputColumn {
        name: name.into(),
        kind,
        source,
        unit: None,
        range: None,
        required: false,
    };
    vec![
        InputColumn {
            unit: Some("years".into()),
            range: Some([0.0, 150.0]),
            ..input("age", ColumnKind::Dense, SourceType::Float)
        },
        input("clicks", ColumnKind::Dense, SourceType::Integer),
        input("views", ColumnKind::Dense, SourceType::Integer),
        input("premium", ColumnKind::Dense, SourceType::Boolean),
        InputColumn {
            required: true,
            ..input("user_id", ColumnKind::Key, SourceType::Integer)
        },
        input("device", ColumnKind::Key, SourceType::Text),
        input("tags", ColumnKind::KeyList, SourceType::Text),
        input("friends", ColumnKind::KeyList, SourceType::Integer),
        input("at", ColumnKind::Time, SourceType::Timestamp),
        input("bid", ColumnKind::Dense, SourceType::Float),
    ]
}

fn list<T>(rows: &[Row], keys: impl Fn(&Row) -> Vec<T>, key: impl Fn(T) -> u64) -> RawColumn {
    let (mut offsets, mut all) = (vec![0], Vec::new());
    for row in rows {
        all.extend(keys(row).into_iter().map(&key));
        offsets.push(all.len() as u32);
    }
    RawColumn::KeyList { offsets, keys: all }
}

/// The rows as raw values.
pub fn raw(rows: &[Row]) -> RawBatch {
    let dense = |value: &dyn Fn(&Row) -> Option<f64>| {
        let single = |row| value(row).map_or(f32::NAN, |value| value as f32);
        RawColumn::Dense(rows.iter().map(single).collect())
    };
    let integer = |value: i64| key::from_integer(value).unwrap();
    let device = |row: &Row| row.device.map_or(MISSING_KEY, key::from_text);
    let columns = vec![
        dense(&|row| row.age),
        dense(&|row| row.clicks.map(|clicks| clicks as f64)),
        dense(&|row| row.views.map(|views| views as f64)),
        dense(&|row| row.premium.map(|premium| f64::from(u8::from(premium)))),
        RawColumn::Key(rows.iter().map(|row| integer(row.user)).collect()),
        RawColumn::Key(rows.iter().map(device).collect()),
        list(rows, |row| row.tags.clone(), key::from_text),
        list(rows, |row| row.friends.clone(), integer),
        RawColumn::Time(
            rows.iter()
                .map(|row| row.at.unwrap_or(MISSING_TIME))
                .collect(),
        ),
        dense(&|row| row.bid),
    ];
    RawBatch {
        rows: rows.len(),
        columns,
    }
}

/// One tensor of a request.
pub fn tensor(name: &str, shape: Value, datatype: &str, data: Value) -> Value {
    json!({"name": name, "shape": shape, "datatype": datatype, "data": data})
}

/// The rows as the body of an inference request.
pub fn request(rows: &[Row]) -> Value {
    let count = rows.len();
    let column = |name: &str, datatype: &str, value: &dyn Fn(&Row) -> Value| {
        let data = rows.iter().map(value).collect();
        tensor(name, json!([count]), datatype, data)
    };
    let list = |name: &str, datatype: &str, value: &dyn Fn(&Row) -> Value| {
        let data = rows.iter().map(value).collect();
        tensor(name, json!([count, -1]), datatype, data)
    };
    json!({"inputs": [
        column("age", "FP32", &|row| json!(row.age)),
        column("clicks", "INT32", &|row| json!(row.clicks)),
        column("views", "INT64", &|row| json!(row.views)),
        column("premium", "BOOL", &|row| json!(row.premium)),
        column("user_id", "INT64", &|row| json!(row.user)),
        column("device", "BYTES", &|row| json!(row.device)),
        list("tags", "BYTES", &|row| json!(row.tags)),
        list("friends", "INT64", &|row| json!(row.friends)),
        column("at", "INT64", &|row| json!(row.at)),
        column("bid", "FP64", &|row| json!(row.bid)),
    ]})
}
