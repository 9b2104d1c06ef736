//! Made-up clicks: dense features, scrambled Zipf ids, labels by chance.

use streamrec::data::Batch;
use streamrec::data::counter::Stream;
use streamrec_artifact::{
    CategoricalFeature, ColumnKind, DenseFeature, DenseSource, Encoded, Encoding, FeatureSchema,
    InputColumn, Pooling, SourceType, TableSchema,
};

/// What a sample holds.
#[derive(Debug, Clone, Copy)]
pub struct Clicks {
    /// Dense features.
    pub dense: usize,
    /// Rows of the table of each categorical feature.
    pub tables: &'static [usize],
    /// Exponent of the ids' frequencies.
    pub zipf_exponent: f64,
}

impl Clicks {
    /// Single-hot features, a table each, and one label.
    pub fn schema(&self) -> FeatureSchema {
        let input = |name: String, kind, source| InputColumn {
            name,
            kind,
            source,
            unit: None,
            range: None,
            required: true,
        };
        let dense = |index| format!("dense_{index}");
        let id = |index| format!("id_{index}");
        let dense_inputs =
            (0..self.dense).map(|index| input(dense(index), ColumnKind::Dense, SourceType::Float));
        let id_inputs = (0..self.tables.len())
            .map(|index| input(id(index), ColumnKind::Key, SourceType::Integer));
        FeatureSchema {
            inputs: dense_inputs.chain(id_inputs).collect(),
            dense: (0..self.dense)
                .map(|index| DenseFeature {
                    name: dense(index),
                    source: DenseSource::Column(dense(index)),
                    steps: Vec::new(),
                    fill: 0.0,
                })
                .collect(),
            categorical: (0..self.tables.len())
                .map(|index| CategoricalFeature {
                    name: id(index),
                    input: id(index),
                    encoding: Encoding::Hash {
                        rows: self.tables[index],
                    },
                    table: id(index),
                    pooling: Pooling::Sum,
                    max_length: None,
                })
                .collect(),
            tables: (0..self.tables.len())
                .map(|index| TableSchema {
                    name: id(index),
                    rows: self.tables[index],
                    dim: None,
                })
                .collect(),
            labels: vec!["click".into()],
        }
    }

    /// Ids with P(rank r) ~ r^-exponent, the ranks scrambled by each table's own permutation.
    fn ids(&self, table: usize, count: usize) -> Vec<i64> {
        let rows = self.tables[table];
        let mut random = Stream::new(&[7, table as u64]);
        let mut cumulative: Vec<f64> = (1..=rows)
            .map(|rank| (rank as f64).powf(-self.zipf_exponent))
            .collect();
        for rank in 1..rows {
            cumulative[rank] += cumulative[rank - 1];
        }
        let mut scrambled: Vec<i64> = (0..rows as i64).collect();
        for last in (1..rows).rev() {
            scrambled.swap(last, random.below(last as u64 + 1) as usize);
        }
        let total = cumulative[rows - 1];
        let draw = |_| {
            let at = random.uniform() * total;
            scrambled[cumulative.partition_point(|&sum| sum <= at).min(rows - 1)]
        };
        (0..count).map(draw).collect()
    }

    /// So many batches of `rows` samples.
    pub fn batches(&self, rows: usize, count: usize) -> Vec<Batch> {
        let of_tables: Vec<Vec<i64>> = (0..self.tables.len())
            .map(|table| self.ids(table, rows * count))
            .collect();
        let mut random = Stream::new(&[11]);
        let batch = |index: usize| {
            let part = index * rows..(index + 1) * rows;
            let encoded = Encoded {
                rows,
                dense: (0..rows * self.dense)
                    .map(|_| random.normal() as f32)
                    .collect(),
                ids: of_tables
                    .iter()
                    .flat_map(|ids| ids[part.clone()].iter().copied())
                    .collect(),
                offsets: (0..=(self.tables.len() * rows) as i64).collect(),
            };
            Batch {
                rows,
                filled: rows,
                encoded,
                labels: (0..rows)
                    .map(|_| f32::from(u8::from(random.chance(0.25))))
                    .collect(),
                weights: vec![1.0; rows],
                weight_sum: rows as f64,
                ..Batch::default()
            }
        };
        (0..count).map(batch).collect()
    }
}
