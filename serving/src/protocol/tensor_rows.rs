//! A tensor taken apart into rows.

use serde_json::Value;
use streamrec_artifact::{ColumnKind, RawBatchBuilder, RawValue};

use super::datatype::Datatype;
use super::{InputTensor, RequestError};

/// One tensor, whose shape fits its feature and its data.
pub(super) struct TensorRows<'a> {
    tensor: &'a InputTensor,
    datatype: Datatype,
    pub(super) rows: usize,
    layout: Layout,
}

/// Where a row's value is in the tensor's data.
#[derive(Clone, Copy)]
enum Layout {
    /// One element a row.
    Elements,
    /// One element a row, in an array of its own.
    NestedElements,
    /// A list a row, of any length.
    Lists,
    /// A list a row, so many elements each.
    ListsOf(usize),
    /// So many elements a row make its list.
    FlatLists(usize),
}

impl<'a> TensorRows<'a> {
    /// Takes `tensor` apart for a feature of `kind`.
    pub(super) fn new(tensor: &'a InputTensor, kind: ColumnKind) -> Result<Self, RequestError> {
        let takes_keys = matches!(kind, ColumnKind::Key | ColumnKind::KeyList);
        let datatype = Datatype::parse(&tensor.datatype, takes_keys);
        let datatype = datatype.ok_or_else(|| RequestError::Datatype {
            name: tensor.name.clone(),
            datatype: tensor.datatype.clone(),
        })?;
        let (shape, length) = (&tensor.shape, tensor.data.len());
        let wrong = |problem| RequestError::Shape {
            name: tensor.name.clone(),
            problem,
        };
        let list = kind == ColumnKind::KeyList;
        let Some((rows, layout)) = layout(shape, list, nested(&tensor.data)) else {
            let expected = if list {
                "[rows], [rows, -1] or [rows, length]"
            } else {
                "[rows]"
            };
            return Err(wrong(format!("expected shape {expected}, got {shape:?}")));
        };
        let width = if let Layout::FlatLists(width) = layout {
            width
        } else {
            1
        };
        if rows.checked_mul(width) != Some(length) {
            return Err(wrong(format!(
                "shape {shape:?} does not fit its {length} elements"
            )));
        }
        Ok(Self {
            tensor,
            datatype,
            rows,
            layout,
        })
    }

    pub(super) fn name(&self) -> &'a str {
        &self.tensor.name
    }

    /// Sets the value of `row`; `list` is memory to reuse.
    pub(super) fn set(
        &self,
        row: usize,
        builder: &mut RawBatchBuilder<'_>,
        list: &mut Vec<RawValue<'a>>,
    ) -> Result<(), RequestError> {
        let data = &self.tensor.data;
        let value = match (self.layout, data.get(row)) {
            (Layout::FlatLists(width), _) => {
                self.list(row, &data[row * width..(row + 1) * width], list)?
            }
            (Layout::Elements, Some(element)) => self.element(row, element)?,
            (_, None | Some(Value::Null)) => RawValue::Missing,
            (Layout::NestedElements, Some(Value::Array(one))) if one.len() == 1 => {
                self.element(row, &one[0])?
            }
            (Layout::ListsOf(width), Some(Value::Array(elements))) if elements.len() != width => {
                let (expected, got) = (format!("a list of {width}"), elements.len());
                return Err(self.wrong_element(row, expected, format!("one of {got}")));
            }
            (Layout::Lists | Layout::ListsOf(_), Some(Value::Array(elements))) => {
                self.list(row, elements, list)?
            }
            (Layout::NestedElements, Some(other)) => {
                let expected = format!("an array of one {}", self.tensor.datatype);
                return Err(self.wrong_element(row, expected, told(other)));
            }
            (Layout::Lists | Layout::ListsOf(_), Some(other)) => {
                let expected = format!("a list of {}", self.tensor.datatype);
                return Err(self.wrong_element(row, expected, told(other)));
            }
        };
        let set = builder.set(&self.tensor.name, value);
        set.map_err(|source| RequestError::Value { row, source })
    }

    fn list<'b>(
        &self,
        row: usize,
        elements: &'a [Value],
        list: &'b mut Vec<RawValue<'a>>,
    ) -> Result<RawValue<'b>, RequestError> {
        list.clear();
        for element in elements.iter().filter(|element| !element.is_null()) {
            list.push(self.element(row, element)?);
        }
        Ok(RawValue::List(list))
    }

    fn element(&self, row: usize, element: &'a Value) -> Result<RawValue<'a>, RequestError> {
        let read = self.datatype.read(element);
        read.ok_or_else(|| {
            let expected = format!("an element of {}", self.tensor.datatype);
            self.wrong_element(row, expected, told(element))
        })
    }

    fn wrong_element(&self, row: usize, expected: String, got: String) -> RequestError {
        RequestError::Element {
            name: self.tensor.name.clone(),
            row,
            expected,
            got,
        }
    }
}

/// The rows that a shape tells, and where they are; `None` where the shape is not the feature's.
fn layout(shape: &[i64], list: bool, nested: bool) -> Option<(usize, Layout)> {
    let (&rows, width) = match shape {
        [rows] => (rows, None),
        [rows, width] => (rows, Some(*width)),
        _ => return None,
    };
    let layout = match (list, width, nested) {
        (false, None, _) | (false, Some(1), false) => Layout::Elements,
        (false, Some(1), true) => Layout::NestedElements,
        (false, Some(_), _) => return None,
        (true, None | Some(-1), _) => Layout::Lists,
        (true, Some(width), true) => Layout::ListsOf(usize::try_from(width).ok()?),
        (true, Some(width), false) => Layout::FlatLists(usize::try_from(width).ok()?),
    };
    Some((usize::try_from(rows).ok()?, layout))
}

fn nested(data: &[Value]) -> bool {
    data.iter().any(Value::is_array)
}

/// An element for a message, not all of a long one.
fn told(element: &Value) -> String {
    let mut text = element.to_string();
    if text.len() > 60 {
        text.truncate(text.floor_char_boundary(60));
        text.push_str("...");
    }
    text
}
