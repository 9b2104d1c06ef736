//! `[model]`: which ranking model, and how wide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A model by its `kind`, with its sizes. Every hidden layer ends in a ReLU; the last layer, one
/// logit a label, is not listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelConfig {
    /// DLRM: <https://arxiv.org/abs/1906.00091>.
    Dlrm(DlrmConfig),
    /// DCN-v2: <https://arxiv.org/abs/2008.13535>.
    DcnV2(DcnV2Config),
    /// DeepFM: <https://arxiv.org/abs/1703.04247>.
    #[serde(rename = "deepfm")]
    DeepFm(DeepFmConfig),
    /// Wide & Deep: <https://arxiv.org/abs/1606.07792>.
    WideDeep(WideDeepConfig),
}

/// Sizes of a DLRM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DlrmConfig {
    /// Width of embedding vectors, and of the interaction.
    pub embedding_dim: usize,
    /// Widths of single tables, by table; their vectors are projected to `embedding_dim`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, usize>,
    /// Layers over the dense features, the last of them `embedding_dim` wide; empty where there
    /// are no dense features.
    #[serde(default)]
    pub bottom: Vec<usize>,
    /// Hidden layers over the interaction.
    pub top: Vec<usize>,
}

/// Sizes of a DCN-v2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DcnV2Config {
    /// Width of embedding vectors.
    pub embedding_dim: usize,
    /// Widths of single tables, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, usize>,
    /// Layers over the dense features before they are crossed: none in the paper, some in
    /// MLPerf's DLRM-DCNv2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bottom: Vec<usize>,
    /// Number of cross layers.
    pub cross_layers: usize,
    /// Rank of the cross layers' matrices; 0 for full ones.
    #[serde(default)]
    pub cross_rank: usize,
    /// Hidden layers of the deep network.
    pub deep: Vec<usize>,
    /// How the two networks are combined.
    #[serde(default)]
    pub structure: Structure,
}

/// Where the deep network of a DCN-v2 stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// Beside the cross network; their results are concatenated.
    #[default]
    Parallel,
    /// After the cross network.
    Stacked,
}

/// Sizes of a DeepFM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepFmConfig {
    /// Width of embedding vectors, and of the factorization machine.
    pub embedding_dim: usize,
    /// Widths of single tables, by table; their vectors are projected to `embedding_dim`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, usize>,
    /// Hidden layers of the deep network.
    pub deep: Vec<usize>,
}

/// Sizes of a Wide & Deep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WideDeepConfig {
    /// Width of the deep network's embedding vectors.
    pub embedding_dim: usize,
    /// Widths of single tables of the deep network, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, usize>,
    /// Hidden layers of the deep network.
    pub deep: Vec<usize>,
}

/// The widest layer that makes sense; catches slips of the keyboard.
const MAX_WIDTH: usize = 1 << 16;

impl ModelConfig {
    /// The name of the model, as in `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dlrm(_) => "dlrm",
            Self::DcnV2(_) => "dcn_v2",
            Self::DeepFm(_) => "deepfm",
            Self::WideDeep(_) => "wide_deep",
        }
    }

    pub(super) fn check(&self, errors: &mut Vec<String>) {
        match self {
            Self::Dlrm(dlrm) => {
                check_dims(dlrm.embedding_dim, &dlrm.dims, errors);
                check_layers("bottom", &dlrm.bottom, errors);
                check_layers("top", &dlrm.top, errors);
                if dlrm
                    .bottom
                    .last()
                    .is_some_and(|last| *last != dlrm.embedding_dim)
                {
                    errors.push(format!(
                        "`model.bottom`: its last layer enters the interaction, so expected {} \
                         (`model.embedding_dim`) there, got {:?}",
                        dlrm.embedding_dim, dlrm.bottom
                    ));
                }
            }
            Self::DcnV2(dcn) => {
                check_dims(dcn.embedding_dim, &dcn.dims, errors);
                check_layers("bottom", &dcn.bottom, errors);
                check_layers("deep", &dcn.deep, errors);
                if !(1..=64).contains(&dcn.cross_layers) {
                    errors.push(format!(
                        "`model.cross_layers`: expected 1 to 64, got {}",
                        dcn.cross_layers
                    ));
                }
                if dcn.cross_rank > MAX_WIDTH {
                    errors.push(format!(
                        "`model.cross_rank`: expected at most {MAX_WIDTH}, got {}",
                        dcn.cross_rank
                    ));
                }
            }
            Self::DeepFm(DeepFmConfig {
                embedding_dim,
                dims,
                deep,
            })
            | Self::WideDeep(WideDeepConfig {
                embedding_dim,
                dims,
                deep,
            }) => {
                check_dims(*embedding_dim, dims, errors);
                check_layers("deep", deep, errors);
            }
        }
    }
}

fn check_dims(embedding_dim: usize, dims: &BTreeMap<String, usize>, errors: &mut Vec<String>) {
    let mut check = |name: &str, dim: usize| {
        if !(1..=MAX_WIDTH).contains(&dim) {
            errors.push(format!(
                "`model.{name}`: expected 1 to {MAX_WIDTH}, got {dim}"
            ));
        }
    };
    check("embedding_dim", embedding_dim);
    for (table, &dim) in dims {
        check(&format!("dims.{table}"), dim);
    }
}

fn check_layers(name: &str, widths: &[usize], errors: &mut Vec<String>) {
    if let Some(bad) = widths
        .iter()
        .find(|width| !(1..=MAX_WIDTH).contains(*width))
    {
        errors.push(format!(
            "`model.{name}`: expected widths from 1 to {MAX_WIDTH}, got {bad}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        toml::from_str::<ModelConfig>(text)
            .unwrap()
            .check(&mut errors);
        errors
    }

    const DLRM: &str = "kind = 'dlrm'\nembedding_dim = 8\nbottom = [16, 8]\ntop = [16]\n";

    #[test]
    fn every_kind_is_read_and_written_back() {
        for text in [
            DLRM,
            "kind = 'dcn_v2'\nembedding_dim = 8\ncross_layers = 2\ncross_rank = 4\ndeep = [8]\n\
             structure = 'stacked'\n[dims]\nuser = 4\n",
            "kind = 'deepfm'\nembedding_dim = 8\ndeep = [8]\n",
            "kind = 'wide_deep'\nembedding_dim = 8\ndeep = [8]\n",
        ] {
            let config: ModelConfig = toml::from_str(text).unwrap();
            let written = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<ModelConfig>(&written).unwrap(), config);
            assert!(text.contains(config.kind()));
            assert_eq!(check(text), [""; 0]);
        }
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let error = toml::from_str::<ModelConfig>(&format!("{DLRM}topp = [1]")).unwrap_err();
        assert!(error.to_string().contains("topp"), "{error}");
    }

    #[test]
    fn all_bad_sizes_are_told_at_once() {
        let errors = check(
            "kind = 'dlrm'\nembedding_dim = 8\nbottom = [16, 4]\ntop = [0]\n[dims]\nuser = 0\n",
        );
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].contains("model.dims.user"));
        assert!(errors[1].contains("model.top"));
        assert!(errors[2].contains("expected 8 (`model.embedding_dim`)"));
    }
}
