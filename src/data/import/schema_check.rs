//! What one section of an import schema demands of another.

use streamrec_artifact::{ColumnKind, SourceType};

use super::schema::{ColumnSchema, FileFormat, ImportSchema, SourceSchema, TimestampFormat};
use super::split::SplitSchema;
use crate::data::{HeldOutCounts, Role};

impl ImportSchema {
    /// Appends one line for each fault.
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        self.source.check("source", errors);
        for (index, table) in self.tables.iter().enumerate() {
            table
                .source
                .check(&format!("tables.{}", table.name), errors);
            if table.on.is_empty() || table.key_fields().len() != table.on.len() {
                errors.push(format!(
                    "`tables.{}`: expected as many fields in `key` as key columns in `on`, got {} and {}",
                    table.name,
                    table.key_fields().len(),
                    table.on.len()
                ));
            }
            for name in &table.on {
                self.check_key(&format!("tables.{}.on", table.name), name, errors);
                self.check_joined_before(index, name, errors);
            }
        }
        for column in &self.columns {
            column.check(errors);
            if column.elapsed.is_some() && self.time.is_none() {
                errors.push(format!(
                    "`columns.{}`: `elapsed` needs a [time] section",
                    column.name
                ));
            }
        }
        if self.columns.is_empty() {
            errors.push("`columns`: at least one column is needed".into());
        }
        if self.labels.is_empty() {
            errors.push("`labels`: at least one label is needed".into());
        }
        for label in &self.labels {
            if self.table_of(label.field()).is_some() {
                errors.push(format!(
                    "`labels.{}`: `{}` is in a side table; rows have their own labels",
                    label.name,
                    label.field()
                ));
            }
            if label.at_least.is_some() && label.equals.is_some() {
                errors.push(format!(
                    "`labels.{}`: give `at_least` or `equals`, not both",
                    label.name
                ));
            }
        }
        if let Some(time) = &self.time {
            if self.table_of(&time.from).is_some() {
                errors.push(format!(
                    "`time.from`: `{}` is in a side table; rows have their own time",
                    time.from
                ));
            }
            check_time_zone("time", time.time_zone.as_deref(), Some(time.format), errors);
        }
        self.check_split(errors);
        self.check_trailing(errors);
        self.check_held_out_counts(errors);
        self.check_names(errors);
    }

    /// The side table that `field` is read from, and its name there.
    pub(super) fn table_of<'a>(&self, field: &'a str) -> Option<(usize, &'a str)> {
        let (table, rest) = field.split_once('.')?;
        let index = self.tables.iter().position(|t| t.name == table)?;
        Some((index, rest))
    }

    /// A table is joined when the main file and the tables before it have been.
    fn check_joined_before(&self, table: usize, name: &str, errors: &mut Vec<String>) {
        let column = self.columns.iter().find(|column| column.name == name);
        let from = column.and_then(|column| self.table_of(column.from.as_deref()?));
        if let Some((other, _)) = from
            && other >= table
        {
            let (own, other) = (&self.tables[table].name, &self.tables[other].name);
            errors.push(format!(
                "`tables.{own}.on`: column `{name}` comes from table `{other}`, which is joined no earlier; \
                 put `{other}` before `{own}`, or join on a column of the main file"
            ));
        }
    }

    fn check_key(&self, place: &str, name: &str, errors: &mut Vec<String>) {
        match self.columns.iter().find(|column| column.name == name) {
            Some(column) if column.kind == ColumnKind::Key => {}
            Some(column) => {
                errors.push(format!(
                    "`{place}`: expected a key column, `{name}` is {}",
                    column.kind
                ));
            }
            None => errors.push(format!("`{place}`: `{name}` is not in `columns`")),
        }
    }

    fn check_split(&self, errors: &mut Vec<String>) {
        if let SplitSchema::Time { .. } = self.split
            && self.time.is_none()
        {
            errors.push(
                "`split`: by = \"time\" needs a [time] section; by = \"order\" follows the files"
                    .into(),
            );
        }
        if let SplitSchema::Order { .. } = self.split
            && self.time.is_some()
        {
            errors.push(
                "`split`: by = \"order\" follows the files, and the [time] section sorts their rows, which \
                 would part rows of equal times; use by = \"time\""
                    .into(),
            );
        }
        if let SplitSchema::KeyTail { key, .. } | SplitSchema::Hash { key, .. } = &self.split {
            self.check_key("split.key", key, errors);
        }
        self.split.check(errors);
    }

    fn check_trailing(&self, errors: &mut Vec<String>) {
        for (i, trailing) in self.trailing.iter().enumerate() {
            let place = format!("trailing[{i}]");
            if trailing.keys.is_empty() {
                errors.push(format!("`{place}.keys`: name at least one key column"));
            }
            if trailing.count.is_none() && trailing.sums.is_empty() {
                errors.push(format!("`{place}`: give `count`, `sums` or both"));
            }
            for key in &trailing.keys {
                self.check_key(&format!("{place}.keys"), key, errors);
            }
            for label in trailing.sums.keys() {
                let summable =
                    |c: &&ColumnSchema| c.role == Role::Outcome && c.kind == ColumnKind::Dense;
                let known = self.labels.iter().any(|l| &l.name == label)
                    || self
                        .columns
                        .iter()
                        .filter(summable)
                        .any(|c| &c.name == label);
                if !known {
                    errors.push(format!(
                        "`{place}.sums`: `{label}` is neither a label nor a dense outcome"
                    ));
                }
            }
        }
    }

    /// Counts freeze where training ends, so no row of train may come after one of valid or test.
    fn check_held_out_counts(&self, errors: &mut Vec<String>) {
        if self.held_out_counts != HeldOutCounts::Frozen {
            return;
        }
        if self.trailing.is_empty() {
            errors.push(
                "`held_out_counts`: \"frozen\" is about [[trailing]] columns, and there are none"
                    .into(),
            );
        }
        if let SplitSchema::KeyTail { key, .. } | SplitSchema::Hash { key, .. } = &self.split {
            errors.push(format!(
                "`held_out_counts`: \"frozen\" needs a moment at which training ends, and a split by \
                 `{key}` has none; split by time or order, or leave the counts \"progressive\""
            ));
        }
    }

    fn check_names(&self, errors: &mut Vec<String>) {
        let mut seen = std::collections::HashSet::new();
        let columns = self.columns.iter().map(|c| &c.name);
        let trailing = self
            .trailing
            .iter()
            .flat_map(|t| t.count.iter().chain(t.sums.values()));
        let names = columns
            .chain(self.labels.iter().map(|l| &l.name))
            .chain(self.time.iter().map(|t| &t.name))
            .chain(trailing);
        for name in names {
            if name.is_empty() {
                errors.push("a column has an empty name".into());
            } else if !seen.insert(name) {
                errors.push(format!(
                    "`{name}`: two columns of the dataset would have this name"
                ));
            }
        }
        let mut tables = std::collections::HashSet::new();
        for table in &self.tables {
            if !tables.insert(&table.name) {
                errors.push(format!(
                    "`tables.{}`: two tables have this name",
                    table.name
                ));
            }
        }
    }
}

impl SourceSchema {
    fn check(&self, place: &str, errors: &mut Vec<String>) {
        if self.files.is_empty() {
            errors.push(format!(
                "`{place}.files`: name at least one file or pattern"
            ));
        }
        if self.delimiter.is_empty() || self.delimiter.contains(['\n', '\r']) {
            errors.push(format!(
                "`{place}.delimiter`: expected text without line breaks"
            ));
        }
        if self.quote.len() > 1 || self.quote == self.delimiter {
            errors.push(format!(
                "`{place}.quote`: expected one ASCII character other than the delimiter, or nothing"
            ));
        }
        if self.format == FileFormat::Parquet && self.names.is_some() {
            errors.push(format!(
                "`{place}.names`: Parquet files name their columns themselves"
            ));
        }
    }
}

impl ColumnSchema {
    fn check(&self, errors: &mut Vec<String>) {
        let place = format!("columns.{}", self.name);
        let elapsed = self.elapsed.is_some();
        let fits = if elapsed {
            self.kind == ColumnKind::Dense && self.source == SourceType::Timestamp
        } else {
            self.source.fits(self.kind)
        };
        if !fits {
            errors.push(format!(
                "`{place}`: a {} column cannot hold a {}",
                self.kind, self.source
            ));
        }
        if self.source == SourceType::Timestamp && self.format.is_none() {
            errors.push(format!(
                "`{place}.format`: a timestamp needs one of s, ms, us, days, iso8601"
            ));
        }
        if self.source != SourceType::Timestamp && (self.format.is_some() || elapsed) {
            errors.push(format!(
                "`{place}`: `format` and `elapsed` are for timestamps"
            ));
        }
        let separable = matches!(self.kind, ColumnKind::Key | ColumnKind::KeyList);
        if !separable && self.separator.is_some() {
            errors.push(format!(
                "`{place}.separator`: only keys and key lists are separated"
            ));
        }
        if self.separator.as_deref() == Some("") {
            errors.push(format!(
                "`{place}.separator`: expected at least one character"
            ));
        }
        if matches!(self.role, Role::Label | Role::Time) {
            errors.push(format!(
                "`{place}.role`: labels and the time have sections of their own"
            ));
        }
        if matches!(self.role, Role::Weight | Role::Truth) && self.kind != ColumnKind::Dense {
            errors.push(format!("`{place}.role`: a weight or truth is dense"));
        }
        if self.role == Role::Group && self.kind != ColumnKind::Key {
            errors.push(format!("`{place}.role`: a group is a key"));
        }
        let stars = |text: &str| text.matches('*').count();
        if stars(&self.name) != stars(self.field()) || stars(&self.name) > 1 {
            errors.push(format!(
                "`{place}`: `name` and `from` need one `*` each, or none"
            ));
        }
        if let Some([low, high]) = self.range
            && !matches!(
                low.partial_cmp(&high),
                Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
            )
        {
            errors.push(format!(
                "`{place}.range`: expected [least, greatest], got [{low}, {high}]"
            ));
        }
        check_time_zone(&place, self.time_zone.as_deref(), self.format, errors);
    }
}

fn check_time_zone(
    place: &str,
    zone: Option<&str>,
    format: Option<TimestampFormat>,
    errors: &mut Vec<String>,
) {
    let Some(zone) = zone else { return };
    if format != Some(TimestampFormat::Iso8601) {
        errors.push(format!(
            "`{place}.time_zone`: only format = \"iso8601\" has time zones"
        ));
    }
    if let Err(error) = jiff::tz::TimeZone::get(zone) {
        errors.push(format!("`{place}.time_zone`: {error}"));
    }
}
