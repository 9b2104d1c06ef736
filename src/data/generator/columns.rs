//! The columns of generated data, and impressions as rows of them.

use streamrec_artifact::{ColumnKind, MISSING_KEY, SourceType, key};

use super::domain::{AGES, CATEGORIES, COUNTRIES, DEVICES, EVENT_TYPES, PLATFORMS};
use super::impression::Impression;
use super::recent::{RECENT_ITEMS, RecentItems};
use crate::data::{Block, Column, RawValue, Role, TrailingSpec};

/// The columns that an impression fills; the trailing ones follow.
pub(super) fn columns() -> Vec<Column> {
    use ColumnKind::{Dense, Key, KeyList, Time};
    use SourceType::{Boolean, Float, Integer, Text, Timestamp};
    let feature = |name, kind, source| Column::new(name, kind, source, Role::Feature);
    vec![
        Column::new("event_time", Time, Timestamp, Role::Time),
        Column::new("request_id", Key, Integer, Role::Group),
        feature("user_id", Key, Integer),
        feature("user_age", Key, Text),
        feature("user_country", Key, Text),
        feature("user_tenure_days", Dense, Float)
            .with_unit("days")
            .with_range(0.0, 36_500.0),
        feature("device", Key, Text),
        feature("platform", Key, Text),
        feature("local_hour", Key, Integer).with_unit("hours"),
        feature("recent_items", KeyList, Integer),
        feature("item_id", Key, Integer),
        feature("item_category", Key, Text),
        feature("creator_id", Key, Integer),
        feature("item_duration_s", Dense, Float)
            .with_unit("seconds")
            .with_range(0.0, 3600.0),
        feature("item_age_days", Dense, Float)
            .with_unit("days")
            .with_range(0.0, 36_500.0),
        Column::new("event_type", Key, Text, Role::Outcome),
        Column::new("watch_s", Dense, Float, Role::Outcome).with_unit("seconds"),
        Column::new("click", Dense, Boolean, Role::Label),
        Column::new("complete", Dense, Boolean, Role::Label),
        Column::new("p_click", Dense, Float, Role::Truth).with_range(0.0, 1.0),
        Column::new("p_complete", Dense, Float, Role::Truth).with_range(0.0, 1.0),
    ]
}

/// Impressions and clicks so far by user, by item, and by user and category.
pub(super) fn trailing() -> Vec<TrailingSpec> {
    let groups: [(&str, &[&str]); 3] = [
        ("user", &["user_id"]),
        ("item", &["item_id"]),
        ("user_category", &["user_id", "item_category"]),
    ];
    let mut specs = Vec::new();
    for (prefix, keys) in groups {
        for (suffix, label) in [("impressions", None), ("clicks", Some("click"))] {
            specs.push(TrailingSpec {
                name: format!("{prefix}_{suffix}"),
                keys: keys.iter().map(|&key| key.into()).collect(),
                label: label.map(Into::into),
            });
        }
    }
    specs
}

/// The dense column of a trailing aggregate.
pub(super) fn trailing_column(spec: &TrailingSpec) -> Column {
    Column::new(
        &spec.name,
        ColumnKind::Dense,
        SourceType::Integer,
        Role::Feature,
    )
    .with_unit(if spec.label.is_some() {
        "clicks"
    } else {
        "impressions"
    })
}

/// Turns impressions into rows; the keys of all names are computed once.
pub(super) struct RowWriter {
    ages: Vec<u64>,
    countries: Vec<u64>,
    categories: Vec<u64>,
    devices: Vec<u64>,
    platforms: Vec<u64>,
    events: Vec<u64>,
    recent: RecentItems,
}

impl RowWriter {
    pub fn new(users: usize) -> Self {
        let keys = |names: &[&str]| names.iter().map(|name| key::from_text(name)).collect();
        Self {
            ages: keys(&AGES),
            countries: COUNTRIES
                .iter()
                .map(|country| key::from_text(country.name))
                .collect(),
            categories: keys(&CATEGORIES),
            devices: keys(&DEVICES),
            platforms: keys(&PLATFORMS),
            events: keys(&EVENT_TYPES),
            recent: RecentItems::new(users),
        }
    }

    /// Appends impressions, which come in the order of time and whole requests, to a block of
    /// [`columns`]. The rows of a request see the clicks before it, not one another's.
    ///
    /// # Errors
    /// More list keys than a block holds.
    pub fn write(&mut self, impressions: &[Impression], block: &mut Block) -> Result<(), String> {
        let mut recent = Vec::with_capacity(RECENT_ITEMS);
        for request in impressions.chunk_by(|a, b| a.request == b.request) {
            recent.clear();
            let known = request[0].user_key != MISSING_KEY;
            if known {
                recent.extend(self.recent.of(request[0].user));
            }
            for row in request {
                block.push(&self.values(row, &recent))?;
            }
            // Nobody knows the clicks of a user or on an item that the rows do not tell.
            for row in request
                .iter()
                .filter(|row| known && row.clicked && row.item_key != MISSING_KEY)
            {
                self.recent.push(row.user, row.item_key);
            }
        }
        Ok(())
    }

    /// The values of a row, in the order of [`columns`].
    fn values<'a>(&self, row: &Impression, recent: &'a [u64]) -> [RawValue<'a>; 21] {
        let name = |keys: &[u64], number: u8| RawValue::Key(keys[usize::from(number)]);
        [
            RawValue::Time(row.time_ms),
            RawValue::Key(row.request),
            RawValue::Key(row.user_key),
            name(&self.ages, row.age),
            name(&self.countries, row.country),
            RawValue::Dense(row.tenure_days),
            name(&self.devices, row.device),
            name(&self.platforms, row.platform),
            RawValue::Key(row.hour.into()),
            RawValue::KeyList(recent),
            RawValue::Key(row.item_key),
            name(&self.categories, row.category),
            RawValue::Key(u64::from(row.creator) + 1),
            RawValue::Dense(row.duration_s),
            RawValue::Dense(row.item_age_days),
            name(&self.events, row.event),
            RawValue::Dense(row.watch_s),
            RawValue::Dense(f32::from(u8::from(row.clicked))),
            RawValue::Dense(f32::from(u8::from(row.completed))),
            RawValue::Dense(row.p_click),
            RawValue::Dense(row.p_complete),
        ]
    }
}
