//! The transforms, each as the encoder runs it over the rows of a batch.

use streamrec_artifact::{
    CategoricalFeature, ColumnKind, DenseFeature, DenseSource, DenseStep, Encoded, Encoder,
    Encoding, FeatureSchema, InputColumn, MISSING_KEY, Pooling, RawBatch, RawColumn, SourceType,
    TableSchema, Vocabularies, Vocabulary,
};

/// Keys per list, and how many of a vocabulary there are.
const HOTNESS: usize = 4;
const KNOWN_KEYS: u64 = 10_000;
const HASH_ROWS: usize = 100_001;

/// One transform, ready to run again and again.
pub struct Operation {
    /// Its name, as `transform/what it works on`.
    pub name: String,
    /// How many values it transforms.
    pub values: usize,
    /// Runs it once.
    pub run: Box<dyn FnMut()>,
}

/// Every transform over a batch of `rows` rows.
pub fn operations(rows: usize) -> Vec<Operation> {
    let edges = |count: u32| Encoding::Buckets {
        edges: (1..=count)
            .map(|edge| f64::from(edge) * 100.0 / f64::from(count))
            .collect(),
    };
    let hash = Encoding::Hash { rows: HASH_ROWS };
    let vocabulary = Encoding::Vocabulary { unseen_rows: 100 };
    let logarithm = |batch: &mut Batch, name: &str| {
        batch.dense(
            name,
            vec![
                DenseStep::Log1p,
                DenseStep::Standardise {
                    mean: 0.5,
                    std: 2.0,
                },
            ],
        );
    };
    let mut all = Vec::new();
    let mut add = |name: &str, fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new(rows);
        fill(&mut batch);
        all.push(batch.operation(name));
    };
    add("hash/key", &|batch| {
        batch.keys("key", hash.clone(), 1 << 40)
    });
    add("hash/list", &|batch| batch.lists("list", hash.clone()));
    add("buckets/16", &|batch| batch.buckets("number", edges(16)));
    add("buckets/64", &|batch| batch.buckets("number", edges(64)));
    add("buckets/256", &|batch| batch.buckets("number", edges(256)));
    add("logarithm", &|batch| logarithm(batch, "number"));
    add("logit", &|batch| {
        batch.dense("number", vec![DenseStep::Logit])
    });
    add("vocabulary/known", &|batch| {
        batch.keys("key", vocabulary.clone(), KNOWN_KEYS)
    });
    add("vocabulary/unseen", &|batch| {
        batch.keys("key", vocabulary.clone(), 1 << 40)
    });
    add("encode/mixed", &|batch| {
        (0..13).for_each(|at| logarithm(batch, &format!("dense_{at}")));
        (0..2).for_each(|at| batch.buckets(&format!("bucket_{at}"), edges(32)));
        (0..8).for_each(|at| batch.keys(&format!("known_{at}"), vocabulary.clone(), KNOWN_KEYS));
        (0..8).for_each(|at| batch.keys(&format!("hashed_{at}"), hash.clone(), 1 << 40));
        batch.lists("list", hash.clone());
        let time_zone = || "Asia/Shanghai".to_owned();
        batch.times(
            "hour",
            Encoding::HourOfDay {
                time_zone: time_zone(),
            },
        );
        batch.times(
            "day",
            Encoding::DayOfWeek {
                time_zone: time_zone(),
            },
        );
    });
    all
}

/// A schema, and raw values for it.
struct Batch {
    raw: RawBatch,
    schema: FeatureSchema,
    vocabularies: Vocabularies,
    state: u64,
}

impl Batch {
    fn new(rows: usize) -> Self {
        Self {
            raw: RawBatch {
                rows,
                columns: Vec::new(),
            },
            schema: FeatureSchema::default(),
            vocabularies: Vocabularies::new(),
            state: 7,
        }
    }

    /// A number below `bound`, of a linear congruential generator.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 16) % bound
    }

    /// A key below `bound`; one in 50 is missing.
    fn key(&mut self, bound: u64) -> u64 {
        if self.below(50) == 0 {
            MISSING_KEY
        } else {
            self.below(bound)
        }
    }

    /// Numbers up to 100; one in 50 is missing.
    fn numbers(&mut self) -> RawColumn {
        let value = |batch: &mut Self| match batch.below(50) {
            0 => f32::NAN,
            _ => batch.below(1 << 20) as f32 * (100.0 / (1 << 20) as f32),
        };
        RawColumn::Dense((0..self.raw.rows).map(|_| value(self)).collect())
    }

    fn input(&mut self, name: &str, column: RawColumn, source: SourceType) {
        self.schema.inputs.push(InputColumn {
            name: name.into(),
            kind: column.kind(),
            source,
            unit: None,
            range: None,
            required: false,
        });
        self.raw.columns.push(column);
    }

    fn dense(&mut self, name: &str, steps: Vec<DenseStep>) {
        let column = self.numbers();
        self.input(name, column, SourceType::Float);
        self.schema.dense.push(DenseFeature {
            name: name.into(),
            source: DenseSource::Column(name.into()),
            steps,
            fill: 0.0,
        });
    }

    fn bag(&mut self, name: &str, encoding: Encoding) {
        let mut keys = 0;
        if matches!(encoding, Encoding::Vocabulary { .. }) {
            keys = KNOWN_KEYS as usize;
            // The keys of a range are never refused.
            let vocabulary = Vocabulary::new((0..KNOWN_KEYS).collect()).expect("keys that differ");
            self.vocabularies.insert(name, vocabulary);
        }
        self.schema.tables.push(TableSchema {
            name: name.into(),
            rows: encoding.rows(keys),
            dim: None,
        });
        self.schema.categorical.push(CategoricalFeature {
            name: name.into(),
            input: name.into(),
            encoding,
            table: name.into(),
            pooling: Pooling::Sum,
            max_length: None,
        });
    }

    fn keys(&mut self, name: &str, encoding: Encoding, bound: u64) {
        let keys = (0..self.raw.rows).map(|_| self.key(bound)).collect();
        self.input(name, RawColumn::Key(keys), SourceType::Integer);
        self.bag(name, encoding);
    }

    fn lists(&mut self, name: &str, encoding: Encoding) {
        let lists = self.raw.rows;
        let keys = (0..lists * HOTNESS).map(|_| self.key(1 << 40)).collect();
        let offsets = (0..=lists).map(|list| (list * HOTNESS) as u32).collect();
        self.input(
            name,
            RawColumn::KeyList { offsets, keys },
            SourceType::Integer,
        );
        self.bag(name, encoding);
    }

    fn buckets(&mut self, name: &str, encoding: Encoding) {
        let column = self.numbers();
        self.input(name, column, SourceType::Float);
        self.bag(name, encoding);
    }

    fn times(&mut self, name: &str, encoding: Encoding) {
        let start = 1_750_000_000_000;
        let times = (0..self.raw.rows)
            .map(|_| start + self.below(100 * 86_400_000) as i64)
            .collect();
        self.input(name, RawColumn::Time(times), SourceType::Timestamp);
        self.bag(name, encoding);
    }

    fn operation(mut self, name: &str) -> Operation {
        self.schema.labels = vec!["click".into()];
        let encoder =
            Encoder::new(&self.schema, &self.vocabularies).expect("a schema that fits its batch");
        let lists = self
            .raw
            .columns
            .iter()
            .filter(|column| column.kind() == ColumnKind::KeyList)
            .count();
        let values = self.raw.rows * (self.raw.columns.len() + lists * (HOTNESS - 1));
        let (raw, mut encoded) = (self.raw, Encoded::default());
        Operation {
            name: name.into(),
            values,
            run: Box::new(move || {
                encoder
                    .encode(&raw, &mut encoded)
                    .expect("a batch of the schema")
            }),
        }
    }
}
