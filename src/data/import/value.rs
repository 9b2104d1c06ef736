//! One field of a file into one raw value, or the reason why not.

use std::ops::Range;

use arrow::array::Array;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;
use streamrec_artifact::{ColumnKind, InputColumn, LIST_LENGTH_MAX, RawColumn, SourceType, key};

use super::cell::{Cell, Fault, boolean, float, integer};
use super::line_parser::FieldOfRows;
use super::null::Null;
use super::number;
use super::schema::{ColumnSchema, LabelSchema, TimeSchema, TimestampFormat};
use crate::data::Role;

/// Turns cells of one field into values of one column.
#[derive(Debug, Clone)]
pub(super) struct Conversion {
    pub(super) rule: Rule,
    /// What stands for a missing value.
    pub(super) nulls: Vec<Null>,
    /// Whether the column itself says so, and not its source for all columns.
    own_nulls: bool,
    /// Whether a missing value makes the line malformed.
    pub(super) required: bool,
    /// What ends the first element of a text, where only that is a key.
    pub(super) first_until: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(super) enum Rule {
    DenseInteger,
    DenseFloat,
    DenseBoolean,
    KeyInteger,
    KeyText,
    KeyBoolean,
    KeyList {
        separator: Vec<u8>,
        element: SourceType,
    },
    Time(TimeRule),
    LabelBinary,
    LabelAtLeast(f64),
    LabelEquals(String),
}

#[derive(Debug, Clone)]
pub(super) struct TimeRule {
    format: TimestampFormat,
    zone: Option<TimeZone>,
    /// Text that is no number may be ISO 8601.
    or_iso8601: bool,
}

impl Conversion {
    /// For a column; a timestamp stays one, whatever is made of it later.
    pub(super) fn column(schema: &ColumnSchema, source_nulls: &[String]) -> Self {
        use SourceType::{Boolean, Float, Integer, Text, Timestamp};
        let rule = match (schema.kind, schema.source) {
            (_, Timestamp) => {
                let format = schema.format.unwrap_or(TimestampFormat::Ms);
                Rule::Time(TimeRule::new(format, schema.time_zone.as_deref()))
            }
            (ColumnKind::KeyList, element) => {
                let separator = schema
                    .separator
                    .as_deref()
                    .unwrap_or(",")
                    .as_bytes()
                    .to_vec();
                Rule::KeyList { separator, element }
            }
            (ColumnKind::Dense, Integer) => Rule::DenseInteger,
            (ColumnKind::Dense, Boolean) => Rule::DenseBoolean,
            (ColumnKind::Dense | ColumnKind::Time, _) => Rule::DenseFloat,
            (ColumnKind::Key, Text) => Rule::KeyText,
            (ColumnKind::Key, Boolean) => Rule::KeyBoolean,
            (ColumnKind::Key, Integer | Float) => Rule::KeyInteger,
        };
        let separator = schema
            .separator
            .as_ref()
            .map(|text| text.as_bytes().to_vec());
        let nulls = schema.null.as_deref().unwrap_or(source_nulls);
        Self {
            nulls: rule.nulls(nulls),
            own_nulls: schema.null.is_some(),
            rule,
            required: false,
            first_until: separator.filter(|_| schema.kind == ColumnKind::Key),
        }
    }

    /// For an input of a model, of which an artifact knows the type and not the file: times are
    /// milliseconds, or ISO 8601 with an offset.
    pub(super) fn input(input: &InputColumn, separator: &str, nulls: &[String]) -> Self {
        let schema = ColumnSchema {
            name: input.name.clone(),
            from: None,
            kind: input.kind,
            source: input.source,
            format: None,
            time_zone: None,
            separator: (input.kind == ColumnKind::KeyList).then(|| separator.to_owned()),
            elapsed: None,
            null: None,
            role: Role::Feature,
            unit: None,
            range: None,
        };
        let mut conversion = Self::column(&schema, nulls);
        if let Rule::Time(rule) = &mut conversion.rule {
            rule.or_iso8601 = true;
        }
        conversion
    }

    /// For a label; it must not be missing.
    pub(super) fn label(schema: &LabelSchema, source_nulls: &[String]) -> Self {
        let rule = match (&schema.equals, schema.at_least) {
            (Some(text), _) => Rule::LabelEquals(text.clone()),
            (None, Some(least)) => Rule::LabelAtLeast(least),
            (None, None) => Rule::LabelBinary,
        };
        Self {
            nulls: rule.nulls(source_nulls),
            own_nulls: false,
            rule,
            required: true,
            first_until: None,
        }
    }

    /// For the time of rows; it must not be missing.
    pub(super) fn time(schema: &TimeSchema, source_nulls: &[String]) -> Self {
        let rule = Rule::Time(TimeRule::new(schema.format, schema.time_zone.as_deref()));
        Self {
            nulls: rule.nulls(source_nulls),
            own_nulls: false,
            rule,
            required: true,
            first_until: None,
        }
    }

    /// The kind of column that its values belong to.
    pub(super) fn kind(&self) -> ColumnKind {
        match self.rule {
            Rule::KeyInteger | Rule::KeyText | Rule::KeyBoolean => ColumnKind::Key,
            Rule::KeyList { .. } => ColumnKind::KeyList,
            Rule::Time(_) => ColumnKind::Time,
            _ => ColumnKind::Dense,
        }
    }

    /// Appends one value. After a fault the column may hold part of it: cut it back to the rows before.
    #[inline]
    pub(super) fn push(&self, cell: Cell<'_>, to: &mut RawColumn) -> Result<(), Fault> {
        let cell = self.first(cell);
        if self.is_missing(cell)? {
            if self.required {
                return Err(Fault::Missing);
            }
            to.push_missing();
            return Ok(());
        }
        match (to, &self.rule) {
            (RawColumn::Key(keys), _) => keys.push(self.key(cell)?),
            (RawColumn::Dense(values), _) => values.push(self.number(cell)?),
            (RawColumn::Time(times), Rule::Time(rule)) => times.push(rule.milliseconds(cell)?),
            (RawColumn::KeyList { offsets, keys }, Rule::KeyList { separator, element }) => {
                let before = keys.len();
                push_list(cell, separator, *element, keys)?;
                if keys.len() - before > LIST_LENGTH_MAX {
                    return Err(Fault::LongList);
                }
                // Rows of a block times the longest list stay far below 2^32.
                offsets.push(keys.len() as u32);
            }
            _ => return Err(Fault::Type),
        }
        Ok(())
    }

    /// Appends a text field of every row; one that does not fit is told to `misfit`, and a missing
    /// value stands in its place. The same as [`push`](Self::push) of each.
    pub(super) fn push_fields(
        &self,
        fields: &FieldOfRows<'_>,
        to: &mut RawColumn,
        mut misfit: impl FnMut(usize, Fault),
    ) {
        let only_empty = matches!(&self.nulls[..], [null] if null.is_empty());
        let plain = only_empty && !self.required && self.first_until.is_none();
        match (to, &self.rule) {
            (RawColumn::Key(keys), Rule::KeyText) if plain && fields.ascii => {
                keys.extend(fields.iter().map(|field| match field {
                    [] => key::MISSING_KEY,
                    text => key::from_utf8(text),
                }));
            }
            (RawColumn::Dense(values), Rule::DenseInteger) if plain => {
                let rows = fields.iter().enumerate();
                values.extend(rows.map(|(row, field)| match field {
                    [] => f32::NAN,
                    text => match number::integer(text) {
                        Some(value) => value as f64 as f32,
                        None => {
                            misfit(row, Fault::Integer);
                            f32::NAN
                        }
                    },
                }));
            }
            (to, _) => {
                for (row, field) in fields.iter().enumerate() {
                    if let Err(fault) = self.push(Cell::Text(field), to) {
                        truncate(to, row);
                        to.push_missing();
                        misfit(row, fault);
                    }
                }
            }
        }
    }

    /// The key that a field holds, for joins.
    pub(super) fn key_of(&self, cell: Cell<'_>) -> Result<u64, Fault> {
        if self.is_missing(cell)? {
            Ok(key::MISSING_KEY)
        } else {
            self.key(cell)
        }
    }

    /// The first element, where only that counts.
    fn first<'a>(&self, cell: Cell<'a>) -> Cell<'a> {
        match (cell, &self.first_until) {
            (Cell::Text(text), Some(separator)) => {
                let first = parts(text, separator).next().unwrap_or(0..text.len());
                match text[first].trim_ascii() {
                    [] => Cell::Null,
                    first => Cell::Text(first),
                }
            }
            _ => cell,
        }
    }

    /// Whether the column names texts for a missing value, which a list cannot hold.
    pub(super) fn has_own_nulls(&self) -> bool {
        self.own_nulls && self.nulls.iter().any(|null| !null.is_empty())
    }

    fn is_missing(&self, cell: Cell<'_>) -> Result<bool, Fault> {
        let cell = match (cell, &self.rule) {
            (Cell::Null, _) => return Ok(true),
            (Cell::Float(value), _) if value.is_nan() => return Ok(true),
            (Cell::OutOfRange, _) => return Err(Fault::OutOfRange),
            // What a clock shows is a moment only by the column's rule.
            (Cell::LocalTime(_), Rule::Time(rule)) => match rule.milliseconds(cell) {
                Ok(milliseconds) => Cell::Time(milliseconds),
                Err(_) => cell,
            },
            _ => cell,
        };
        Ok(self.nulls.iter().any(|null| null.is(cell)))
    }

    #[inline]
    fn key(&self, cell: Cell<'_>) -> Result<u64, Fault> {
        match (&self.rule, cell) {
            (Rule::KeyInteger, _) => integer_key(cell),
            (Rule::KeyText, Cell::Text(text)) => text_key(text),
            // Text keys of numbers are those of their decimal form, as a text file would hold it.
            (Rule::KeyText, Cell::Integer(value)) => text_key(value.to_string().as_bytes()),
            (Rule::KeyText, Cell::Unsigned(value)) => text_key(value.to_string().as_bytes()),
            (Rule::KeyText, Cell::Decimal(digits)) => match number::trimmed(digits) {
                whole if !whole.contains(&b'.') => text_key(whole),
                _ => Err(Fault::Type),
            },
            (Rule::KeyBoolean, _) => Ok(key::from_boolean(boolean(cell)?)),
            _ => Err(Fault::Type),
        }
    }

    #[inline]
    fn number(&self, cell: Cell<'_>) -> Result<f32, Fault> {
        match &self.rule {
            // Through f64, as serving rounds it.
            Rule::DenseInteger => Ok(integer(cell)? as f64 as f32),
            Rule::DenseFloat => finite(float(cell)?),
            Rule::DenseBoolean => Ok(truth(boolean(cell)?)),
            Rule::LabelBinary => boolean(cell).map(truth).map_err(|_| Fault::Label),
            Rule::LabelAtLeast(least) => match float(cell)? {
                value if value.is_finite() => Ok(truth(value >= *least)),
                _ => Err(Fault::NotFinite),
            },
            Rule::LabelEquals(text) => Ok(truth(match cell {
                Cell::Text(got) => got == text.as_bytes(),
                Cell::Integer(got) => number::integer(text.as_bytes()) == Some(got),
                Cell::Decimal(got) => number::trimmed(got) == number::trimmed(text.as_bytes()),
                Cell::Boolean(got) => got == (text == "true" || text == "1"),
                _ => return Err(Fault::Type),
            })),
            _ => Err(Fault::Type),
        }
    }
}

impl Rule {
    /// What `texts` stand for in a column of this rule.
    fn nulls(&self, texts: &[String]) -> Vec<Null> {
        let moment = |text: &String| match self {
            Self::Time(rule) => rule.milliseconds(Cell::Text(text.as_bytes())).ok(),
            _ => None,
        };
        let null = |text: &String| Null::new(text.as_bytes(), moment(text));
        texts.iter().map(null).collect()
    }
}

fn truth(value: bool) -> f32 {
    f32::from(u8::from(value))
}

/// An integer's own bits, signed or not.
#[inline]
fn integer_key(cell: Cell<'_>) -> Result<u64, Fault> {
    let bits = match cell {
        Cell::Text(text) | Cell::Decimal(text) => number::identifier(text).ok_or(Fault::Integer)?,
        Cell::Unsigned(value) => value.cast_signed(),
        _ => integer(cell)?,
    };
    key::from_integer(bits).map_err(|_| Fault::ReservedKey)
}

fn text_key(text: &[u8]) -> Result<u64, Fault> {
    std::str::from_utf8(text)
        .map(key::from_text)
        .map_err(|_| Fault::Utf8)
}

/// Numbers are read as doubles and then rounded, as serving does with JSON.
fn finite(value: f64) -> Result<f32, Fault> {
    let rounded = value as f32;
    if rounded.is_finite() {
        Ok(rounded)
    } else {
        Err(Fault::NotFinite)
    }
}

fn push_list(
    cell: Cell<'_>,
    separator: &[u8],
    element: SourceType,
    keys: &mut Vec<u64>,
) -> Result<(), Fault> {
    let mut push = |cell: Cell<'_>| {
        keys.push(match (element, cell) {
            (SourceType::Text, Cell::Text(text)) => text_key(text)?,
            (SourceType::Text, Cell::Integer(value)) => text_key(value.to_string().as_bytes())?,
            (SourceType::Text, Cell::Unsigned(value)) => text_key(value.to_string().as_bytes())?,
            (SourceType::Boolean, _) => key::from_boolean(boolean(cell)?),
            _ => integer_key(cell)?,
        });
        Ok(())
    };
    match cell {
        Cell::Integers(values, start, end) => (start..end)
            .filter(|i| values.is_valid(*i))
            .try_for_each(|i| push(Cell::Integer(values.value(i)))),
        Cell::Unsigneds(values, start, end) => (start..end)
            .filter(|i| values.is_valid(*i))
            .try_for_each(|i| push(Cell::unsigned(values.value(i)))),
        Cell::Texts(values, start, end) => (start..end)
            .filter(|i| values.is_valid(*i))
            .try_for_each(|i| push(Cell::Text(values.value(i).as_bytes()))),
        Cell::Text(text) => parts(text, separator)
            .map(|range| text[range].trim_ascii())
            .filter(|part| !part.is_empty())
            .try_for_each(|part| push(Cell::Text(part))),
        single => push(single),
    }
}

/// The parts of `text` between separators.
pub(super) fn parts<'a>(
    text: &'a [u8],
    separator: &'a [u8],
) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let found = text[start..]
            .windows(separator.len())
            .position(|window| window == separator);
        next = found.map(|at| start + at + separator.len());
        Some(start..found.map_or(text.len(), |at| start + at))
    })
}

static DATE_TIME: DateTimeParser = DateTimeParser::new();

impl TimeRule {
    fn new(format: TimestampFormat, zone: Option<&str>) -> Self {
        // The schema was checked: a zone that is not known was an error there.
        Self {
            format,
            zone: zone.and_then(|zone| TimeZone::get(zone).ok()),
            or_iso8601: false,
        }
    }

    fn milliseconds(&self, cell: Cell<'_>) -> Result<i64, Fault> {
        let milliseconds = match (self.format, cell) {
            (_, Cell::Time(milliseconds)) => Some(milliseconds),
            (TimestampFormat::Iso8601, Cell::Text(text)) => return self.iso8601(text),
            (TimestampFormat::Iso8601, Cell::LocalTime(local)) => {
                let local = Timestamp::from_millisecond(local).map_err(|_| Fault::Timestamp)?;
                return self.in_zone(TimeZone::UTC.to_datetime(local));
            }
            // What counts from the epoch has no zone.
            (_, Cell::LocalTime(milliseconds)) => Some(milliseconds),
            (TimestampFormat::Iso8601, _) => return Err(Fault::Type),
            (TimestampFormat::S, _) => integer(cell).or_else(|_| whole(cell))?.checked_mul(1000),
            (TimestampFormat::Ms, Cell::Text(text)) if self.or_iso8601 => {
                return integer(cell).or_else(|_| self.iso8601(text));
            }
            (TimestampFormat::Ms, _) => Some(integer(cell)?),
            (TimestampFormat::Us, _) => Some(integer(cell)?.div_euclid(1000)),
            (TimestampFormat::Days, _) => integer(cell)?.checked_mul(86_400_000),
        };
        milliseconds
            .filter(|ms| *ms != key::MISSING_TIME)
            .ok_or(Fault::Timestamp)
    }

    fn iso8601(&self, text: &[u8]) -> Result<i64, Fault> {
        if let Ok(timestamp) = DATE_TIME.parse_timestamp(text) {
            return Ok(timestamp.as_millisecond());
        }
        let local = DATE_TIME
            .parse_datetime(text)
            .map_err(|_| Fault::Timestamp)?;
        self.in_zone(local)
    }

    fn in_zone(&self, local: DateTime) -> Result<i64, Fault> {
        let zone = self.zone.as_ref().ok_or(Fault::NoOffset)?;
        let timestamp = zone.to_timestamp(local).map_err(|_| Fault::Timestamp)?;
        Ok(timestamp.as_millisecond())
    }
}

/// Seconds written with a fraction: the whole second.
fn whole(cell: Cell<'_>) -> Result<i64, Fault> {
    let seconds = float(cell).map_err(|_| Fault::Timestamp)?.floor();
    if seconds.abs() < 1e15 {
        Ok(seconds as i64)
    } else {
        Err(Fault::Timestamp)
    }
}

/// Cuts a column back to `rows` rows.
pub(super) fn truncate(column: &mut RawColumn, rows: usize) {
    match column {
        RawColumn::Dense(values) => values.truncate(rows),
        RawColumn::Key(keys) => keys.truncate(rows),
        RawColumn::Time(times) => times.truncate(rows),
        RawColumn::KeyList { offsets, keys } => {
            offsets.truncate(rows + 1);
            keys.truncate(offsets.last().map_or(0, |end| *end as usize));
        }
    }
}
