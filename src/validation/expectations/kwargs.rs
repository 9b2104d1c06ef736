//! Arguments of an expectation: each is taken by name, and what nobody took is refused.

use serde_json::{Map, Value};

use super::literal::{Bounds, Literal};

/// Arguments that hold for any expectation and change no verdict here.
const WITHOUT_EFFECT: [&str; 3] = ["catch_exceptions", "batch_id", "result_format"];

/// The arguments that were not taken yet.
pub(super) struct Kwargs {
    left: Map<String, Value>,
}

impl Kwargs {
    pub(super) fn new(written: &Map<String, Value>) -> Result<Self, String> {
        for (name, value) in written {
            if value
                .as_object()
                .is_some_and(|map| map.contains_key("$PARAMETER"))
            {
                return Err(format!(
                    "{name}: a $PARAMETER is not supported; write the value itself"
                ));
            }
        }
        let mut left = written.clone();
        left.retain(|name, value| !value.is_null() && !WITHOUT_EFFECT.contains(&name.as_str()));
        Ok(Self { left })
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{name}: expected text, got {other}")),
        }
    }

    pub(super) fn needed_text(&mut self, name: &str) -> Result<String, String> {
        self.text(name)?
            .ok_or_else(|| format!("`{name}` is missing"))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(format!("{name}: expected true or false, got {other}")),
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(format!("{name}: expected a number, got {value}")),
            },
        }
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, String> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let texts = value.as_array().and_then(|values| {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>()
        });
        texts
            .map(Some)
            .ok_or_else(|| format!("{name}: expected a list of texts, got {value}"))
    }

    pub(super) fn literals(&mut self, name: &str) -> Result<Option<Vec<Literal>>, String> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let values = value
            .as_array()
            .ok_or_else(|| format!("{name}: expected a list, got {value}"))?;
        let literals = values.iter().map(Literal::of);
        let literals: Vec<_> = literals
            .collect::<Result<_, _>>()
            .map_err(|problem| format!("{name}: {problem}"))?;
        // Missing values are never looked up, so null in a set changes nothing.
        Ok(Some(literals.into_iter().flatten().collect()))
    }

    /// `min_value`, `max_value`, `strict_min` and `strict_max`, at least one limit of them.
    pub(super) fn bounds(&mut self) -> Result<Bounds, String> {
        let mut limit = |name: &str| {
            let value = self.take(name).unwrap_or(Value::Null);
            Literal::of(&value).map_err(|problem| format!("{name}: {problem}"))
        };
        let (min, max) = (limit("min_value")?, limit("max_value")?);
        if min.is_none() && max.is_none() {
            return Err("min_value and max_value are both missing".into());
        }
        if let (Some(low), Some(high)) = (&min, &max) {
            let reversed = match (low.number(), high.number()) {
                (Some(low), Some(high)) => low > high,
                _ => matches!((low.micros(), high.micros()), (Some(low), Some(high)) if low > high),
            };
            if reversed {
                return Err(format!("min_value {low} is greater than max_value {high}"));
            }
        }
        Ok(Bounds {
            min,
            max,
            strict_min: self.flag("strict_min")?.unwrap_or(false),
            strict_max: self.flag("strict_max")?.unwrap_or(false),
        })
    }

    /// Refuses what is left.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("its argument `{name}` is not supported")),
        }
    }
}
