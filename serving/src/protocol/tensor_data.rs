//! The data of a tensor, element by element into a raw column.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use streamrec_artifact::{
    ColumnKind, InputColumn, RawColumn, RawColumnBuilder, RawValue, RawValueError, excerpt,
};

use super::RequestError;
use super::datatype::Datatype;
use super::refusal::Refusal;

/// A tensor's data that is being read; the row under way is the column's next.
pub(super) struct TensorData<'t> {
    column: RawColumnBuilder<'t>,
    shape: &'t [i64],
    datatype: Datatype,
    datatype_name: &'t str,
    rows: usize,
    layout: Layout,
    /// Elements of the outer array so far.
    elements: usize,
}

/// Where a row's value is in the outer array.
#[derive(Clone, Copy)]
enum Layout {
    /// One element a row.
    Elements,
    /// One element a row, which may stand in an array of its own.
    Ones,
    /// An array a row, of any length.
    Lists,
    /// An array a row, of so many elements each.
    ListsOf(usize),
    /// So many elements a row make its list.
    FlatLists(usize),
    /// [`Layout::ListsOf`] or [`Layout::FlatLists`]: only nulls came yet.
    Unknown(usize),
}

impl<'t> TensorData<'t> {
    /// Expects the data of a tensor with this head.
    pub(super) fn new(
        input: &'t InputColumn,
        shape: &'t [i64],
        datatype: &'t str,
    ) -> Result<Self, RequestError> {
        let takes_keys = matches!(input.kind, ColumnKind::Key | ColumnKind::KeyList);
        let known = Datatype::parse(datatype, takes_keys);
        let list = input.kind == ColumnKind::KeyList;
        let (rows, layout) = layout(shape, list).ok_or_else(|| RequestError::Shape {
            name: input.name.clone(),
            problem: format!(
                "expected shape {}, got {shape:?}",
                if list {
                    "[rows], [rows, -1] or [rows, length]"
                } else {
                    "[rows]"
                }
            ),
        })?;
        Ok(Self {
            column: RawColumnBuilder::new(input),
            shape,
            datatype: known.ok_or_else(|| RequestError::Datatype {
                name: input.name.clone(),
                datatype: excerpt(datatype).into_owned(),
            })?,
            datatype_name: datatype,
            rows,
            layout,
            elements: 0,
        })
    }

    /// The rows that the shape tells.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The elements of the outer array that the shape asks for.
    fn elements_expected(&self) -> usize {
        match self.layout {
            Layout::FlatLists(width) | Layout::Unknown(width) => self.rows.saturating_mul(width),
            _ => self.rows,
        }
    }

    /// Counts an element of the outer array, and refuses one more than the shape asks for.
    #[inline]
    fn count(&mut self) -> Result<(), RequestError> {
        if self.elements >= self.elements_expected() {
            return Err(self.wrong_count("more"));
        }
        self.elements += 1;
        Ok(())
    }

    /// Takes an element of the outer array that is no array.
    #[inline]
    fn outer(&mut self, value: RawValue<'_>) -> Result<(), RequestError> {
        self.count()?;
        match (self.layout, value) {
            (Layout::Elements | Layout::Ones, _) => self.push(value),
            (Layout::FlatLists(width), _) => self.flat_element(value, width),
            (Layout::Unknown(_), RawValue::Missing) => Ok(()),
            (Layout::Unknown(width), _) => {
                self.layout = Layout::FlatLists(width);
                self.nulls_are_elements(self.elements - 1, width)?;
                self.flat_element(value, width)
            }
            (Layout::Lists | Layout::ListsOf(_), RawValue::Missing) => self.push(value),
            (Layout::Lists | Layout::ListsOf(_), _) => {
                let expected = format!("a list of {}", self.datatype_name);
                Err(self.wrong_element(expected, told(value)))
            }
        }
    }

    /// An array of the outer array begins.
    fn begin_list(&mut self) -> Result<(), RequestError> {
        if let Layout::Unknown(width) = self.layout {
            self.layout = Layout::ListsOf(width);
            for _ in 0..self.elements {
                self.push(RawValue::Missing)?;
            }
        }
        self.count()?;
        match self.layout {
            Layout::Elements | Layout::FlatLists(_) => Err(self.wrong_type("an array".to_owned())),
            _ => Ok(()),
        }
    }

    /// Takes the `index`-th element of an array of the outer array.
    #[inline]
    fn inner(&mut self, index: usize, value: RawValue<'_>) -> Result<(), RequestError> {
        match self.layout {
            Layout::Ones if index == 0 => self.push(value),
            // The first element was the row.
            Layout::Ones => Err(self.wrong_length(self.column.rows() - 1, 1, "more")),
            Layout::ListsOf(width) if index == width => {
                Err(self.wrong_length(self.column.rows(), width, "more"))
            }
            _ => self.push_element(value),
        }
    }

    /// An array of the outer array ends after so many elements.
    fn end_list(&mut self, length: usize) -> Result<(), RequestError> {
        match self.layout {
            Layout::Ones if length == 0 => Err(self.wrong_length(self.column.rows(), 1, "none")),
            Layout::ListsOf(width) if length < width => {
                Err(self.wrong_length(self.column.rows(), width, &length.to_string()))
            }
            Layout::Ones => Ok(()),
            _ => {
                self.column.end_list();
                Ok(())
            }
        }
    }

    /// The outer array ends.
    fn finish(mut self) -> Result<RawColumn, RequestError> {
        if self.elements != self.elements_expected() {
            return Err(self.wrong_count(&self.elements.to_string()));
        }
        match self.layout {
            Layout::Unknown(0) | Layout::FlatLists(0) => {
                (0..self.rows).for_each(|_| self.column.end_list());
            }
            Layout::Unknown(width) => self.nulls_are_elements(self.elements, width)?,
            _ => {}
        }
        Ok(self.column.finish())
    }

    /// Takes the first `nulls` elements of the outer array for elements of flat lists.
    fn nulls_are_elements(&mut self, nulls: usize, width: usize) -> Result<(), RequestError> {
        let elements = self.elements;
        for element in 1..=nulls {
            self.elements = element;
            self.flat_element(RawValue::Missing, width)?;
        }
        self.elements = elements;
        Ok(())
    }

    #[inline]
    fn flat_element(&mut self, value: RawValue<'_>, width: usize) -> Result<(), RequestError> {
        self.push_element(value)?;
        if self.elements.is_multiple_of(width) {
            self.column.end_list();
        }
        Ok(())
    }

    /// A missing element of a list is left out.
    #[inline]
    fn push_element(&mut self, value: RawValue<'_>) -> Result<(), RequestError> {
        if value == RawValue::Missing {
            return Ok(());
        }
        let value = self.read(value)?;
        let pushed = self.column.push_element(value);
        pushed.map_err(|source| self.refused(source))
    }

    #[inline]
    fn push(&mut self, value: RawValue<'_>) -> Result<(), RequestError> {
        let value = self.read(value)?;
        let pushed = self.column.push(value);
        pushed.map_err(|source| self.refused(source))
    }

    #[inline]
    fn read<'v>(&self, value: RawValue<'v>) -> Result<RawValue<'v>, RequestError> {
        let read = self.datatype.read(value);
        read.ok_or_else(|| self.wrong_type(told(value)))
    }

    #[cold]
    fn refused(&self, source: RawValueError) -> RequestError {
        let row = self.column.rows();
        RequestError::Value { row, source }
    }

    #[cold]
    fn wrong_type(&self, got: String) -> RequestError {
        self.wrong_element(format!("an element of {}", self.datatype_name), got)
    }

    fn wrong_length(&self, row: usize, expected: usize, got: &str) -> RequestError {
        RequestError::Element {
            name: self.column.input().name.clone(),
            row,
            expected: format!("an array of {expected} {}", self.datatype_name),
            got: format!("one of {got}"),
        }
    }

    #[cold]
    fn wrong_element(&self, expected: String, got: String) -> RequestError {
        RequestError::Element {
            name: self.column.input().name.clone(),
            row: self.column.rows(),
            expected,
            got,
        }
    }

    #[cold]
    fn wrong_count(&self, got: &str) -> RequestError {
        let (shape, expected) = (self.shape, self.elements_expected());
        RequestError::Shape {
            name: self.column.input().name.clone(),
            problem: format!("shape {shape:?} asks for {expected} elements, got {got}"),
        }
    }
}

/// The rows that a shape tells, and where they are; `None` where the shape is not the feature's.
fn layout(shape: &[i64], list: bool) -> Option<(usize, Layout)> {
    let (&rows, width) = match shape {
        [rows] => (rows, None),
        [rows, width] => (rows, Some(*width)),
        _ => return None,
    };
    let layout = match (list, width) {
        (false, None) => Layout::Elements,
        (false, Some(1)) => Layout::Ones,
        (false, Some(_)) => return None,
        (true, None | Some(-1)) => Layout::Lists,
        (true, Some(width)) => Layout::Unknown(usize::try_from(width).ok()?),
    };
    Some((usize::try_from(rows).ok()?, layout))
}

/// A value for a message, as JSON has it.
fn told(value: RawValue<'_>) -> String {
    match value {
        RawValue::Missing => "null".to_owned(),
        RawValue::Integer(value) => value.to_string(),
        RawValue::Float(value) => value.to_string(),
        RawValue::Text(text) => format!("{:?}", excerpt(text)),
        RawValue::Boolean(value) => value.to_string(),
        RawValue::Key(value) => value.to_string(),
    }
}

/// Reads the outer array.
pub(super) struct DataSeed<'t, 'r> {
    pub(super) data: TensorData<'t>,
    pub(super) refusal: &'r Refusal,
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_, '_> {
    type Value = RawColumn;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawColumn, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for DataSeed<'_, '_> {
    type Value = RawColumn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<RawColumn, A::Error> {
        let refusal = self.refusal;
        loop {
            let element = ElementSeed {
                data: &mut self.data,
                refusal,
                inside: None,
            };
            if seq.next_element_seed(element)?.is_none() {
                break;
            }
        }
        refusal.or_json(self.data.finish())
    }
}

/// Reads one element.
struct ElementSeed<'d, 't, 'r> {
    data: &'d mut TensorData<'t>,
    refusal: &'r Refusal,
    /// Where it stands in an array of the outer array.
    inside: Option<usize>,
}

impl ElementSeed<'_, '_, '_> {
    #[inline]
    fn value<E: Error>(self, value: RawValue<'_>) -> Result<(), E> {
        let taken = match self.inside {
            None => self.data.outer(value),
            Some(index) => self.data.inner(index, value),
        };
        self.refusal.or_json(taken)
    }
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an element")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.value(RawValue::Missing)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.value(RawValue::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.value(RawValue::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let integer = i64::try_from(value).map(RawValue::Integer);
        self.value(integer.unwrap_or(RawValue::Key(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.value(RawValue::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.value(RawValue::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self {
            data,
            refusal,
            inside,
        } = self;
        if inside.is_some() {
            return Err(refusal.refuse(data.wrong_type("an array in an array".to_owned())));
        }
        refusal.or_json(data.begin_list())?;
        let mut length = 0;
        loop {
            let element = ElementSeed {
                data: &mut *data,
                refusal,
                inside: Some(length),
            };
            if seq.next_element_seed(element)?.is_none() {
                break;
            }
            length += 1;
        }
        refusal.or_json(data.end_list(length))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        let refused = self.data.wrong_type("an object".to_owned());
        Err(self.refusal.refuse(refused))
    }
}
