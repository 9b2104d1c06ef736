//! One tensor of a request: its name, shape and datatype, then its data.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue as RawJson;
use streamrec_artifact::{InputColumn, RawColumn};

use super::RequestError;
use super::request::Columns;
use super::tensor_data::{DataSeed, TensorData};

/// The most dimensions of a shape that are read; no feature has more than two.
const DIMENSIONS_MAX: usize = 8;

/// Reads a tensor into the columns.
pub(super) struct TensorSeed<'c, 'm, 'r>(pub(super) &'c mut Columns<'m, 'r>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum TensorField {
    Name,
    Shape,
    Datatype,
    Data,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let refusal = self.0.refusal;
        let (mut input, mut shape, mut datatype) = (None, None, None);
        let (mut column, mut unread) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                TensorField::Name => {
                    input = Some(refusal.or_json(self.0.input(&map.next_value::<String>()?))?);
                }
                TensorField::Shape => shape = Some(map.next_value::<Shape>()?.0),
                TensorField::Datatype => datatype = Some(map.next_value::<String>()?),
                TensorField::Data if column.is_some() || unread.is_some() => {
                    return Err(A::Error::duplicate_field("data"));
                }
                TensorField::Data => match (input, &shape, &datatype) {
                    (Some(input), Some(shape), Some(datatype)) => {
                        let data = refusal.or_json(self.0.data(input, shape, datatype))?;
                        column = Some(map.next_value_seed(DataSeed { data, refusal })?);
                    }
                    // JSON's fields have no order; only once all are there can data be understood.
                    _ => unread = Some(map.next_value::<&RawJson>()?),
                },
                TensorField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let input = input.ok_or_else(|| A::Error::missing_field("name"))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let datatype = datatype.ok_or_else(|| A::Error::missing_field("datatype"))?;
        let column = match (column, unread) {
            (Some(column), _) => column,
            (None, Some(json)) => refusal.or_json(self.0.read(input, &shape, &datatype, json))?,
            (None, None) => return Err(A::Error::missing_field("data")),
        };
        self.0.insert(input.0, column);
        Ok(())
    }
}

impl<'m> Columns<'m, '_> {
    /// The reader of the data of a tensor of this head.
    fn data<'t>(
        &mut self,
        (index, input): (usize, &'m InputColumn),
        shape: &'t [i64],
        datatype: &'t str,
    ) -> Result<TensorData<'t>, RequestError>
    where
        'm: 't,
    {
        let data = TensorData::new(input, shape, datatype)?;
        self.check_rows(index, data.rows())?;
        Ok(data)
    }

    fn read(
        &mut self,
        input: (usize, &'m InputColumn),
        shape: &[i64],
        datatype: &str,
        json: &RawJson,
    ) -> Result<RawColumn, RequestError> {
        let refusal = self.refusal;
        let data = self.data(input, shape, datatype)?;
        let seed = DataSeed { data, refusal };
        let read = seed.deserialize(&mut serde_json::Deserializer::from_str(json.get()));
        read.map_err(|error| refusal.take().unwrap_or(RequestError::Json(error)))
    }
}

struct Shape(Vec<i64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a shape of at most {DIMENSIONS_MAX} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = seq.next_element()? {
            if shape.len() == DIMENSIONS_MAX {
                return Err(A::Error::invalid_length(DIMENSIONS_MAX + 1, &self));
            }
            shape.push(size);
        }
        Ok(Shape(shape))
    }
}
