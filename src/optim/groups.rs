use super::OptimError;
use crate::{config::optimizer::GroupConfig, model::ParameterStore};

/// The exceptions by name of parameter.
pub(super) struct Groups<'a> {
    groups: &'a [GroupConfig],
}

impl<'a> Groups<'a> {
    /// # Errors
    /// When a group matches no parameter of the store, which is always a slip.
    pub(super) fn new(
        groups: &'a [GroupConfig],
        parameters: &ParameterStore,
    ) -> Result<Self, OptimError> {
        let names: Vec<&str> = names(parameters).collect();
        for GroupConfig { pattern, .. } in groups {
            if !names.iter().any(|name| matches(pattern, name)) {
                let examples = [names.first(), names.last()].into_iter().flatten();
                let examples: Vec<String> = examples.map(|name| format!("`{name}`")).collect();
                let examples = examples.join(" and ");
                return Err(OptimError::Group {
                    pattern: pattern.clone(),
                    examples,
                });
            }
        }
        Ok(Self { groups })
    }

    /// The factor on a parameter's learning rate.
    pub(super) fn learning_rate_scale(&self, name: &str) -> f64 {
        self.of(name).map_or(1.0, |group| group.learning_rate_scale)
    }

    /// A parameter's weight decay, where the group sets one.
    pub(super) fn weight_decay(&self, name: &str) -> Option<f64> {
        self.of(name).and_then(|group| group.weight_decay)
    }

    fn of(&self, name: &str) -> Option<&GroupConfig> {
        self.groups
            .iter()
            .find(|group| matches(&group.pattern, name))
    }
}

fn names(parameters: &ParameterStore) -> impl Iterator<Item = &str> {
    let dense = parameters.layout().parameters().iter();
    dense.map(|placed| placed.parameter.name.as_str()).chain(
        parameters
            .tables()
            .map(|(_, table)| table.parameter.name.as_str()),
    )
}

/// Whether `name` is `pattern`, in which each `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((prefix, mut rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(prefix) else {
        return false;
    };
    // The first place that fits leaves the most for what follows.
    while let Some((part, after)) = rest.split_once('*') {
        let Some(at) = name.find(part) else {
            return false;
        };
        (name, rest) = (&name[at + part.len()..], after);
    }
    name.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("top.0.bias", "top.0.bias", true),
            ("top.0.bias", "top.0.biases", false),
            ("embedding.*", "embedding.user_id", true),
            ("embedding.*", "embeddings", false),
            ("*.bias", "top.0.bias", true),
            ("*.bias", "top.0.bias.x", false),
            ("top.*.bias", "top.10.bias", true),
            ("top.*.bias", "top.bias", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
