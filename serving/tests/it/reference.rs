//! The model of these tests as plain loops in double precision: shares nothing with the encoder, the
//! kernels or candle but the published key hashes.

use streamrec_artifact::{MISSING_KEY, MISSING_TIME, RawBatch, RawColumn, Weights, key};

use crate::model::{DEVICES, USERS};

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The logits of raw rows, `[rows, labels]`.
pub fn logits(weights: &Weights, raw: &RawBatch) -> Vec<f64> {
    let model = Model { weights };
    (0..raw.rows)
        .flat_map(|row| model.logits(&Inputs::of(raw, row)))
        .collect()
}

/// One row, encoded.
struct Inputs {
    dense: Vec<f64>,
    user: Vec<usize>,
    device: Vec<usize>,
    tags: Vec<usize>,
    friends: Vec<usize>,
    hour: Vec<usize>,
}

impl Inputs {
    fn of(raw: &RawBatch, row: usize) -> Self {
        let number = |column: usize| match &raw.columns[column] {
            RawColumn::Dense(values) if values[row].is_nan() => None,
            RawColumn::Dense(values) => Some(f64::from(values[row])),
            _ => panic!("column {column} holds numbers"),
        };
        let keys = |column: usize| match &raw.columns[column] {
            RawColumn::Key(keys) => vec![keys[row]],
            RawColumn::KeyList { offsets, keys } => {
                keys[offsets[row] as usize..offsets[row + 1] as usize].to_vec()
            }
            _ => panic!("column {column} holds keys"),
        };
        let hour = match &raw.columns[8] {
            RawColumn::Time(times) if times[row] == MISSING_TIME => 0,
            RawColumn::Time(times) => 1 + (times[row].rem_euclid(86_400_000) / 3_600_000) as usize,
            _ => panic!("column 8 holds times"),
        };
        let rate = number(1).zip(number(2)).map(|(clicks, views)| {
            let rate = (clicks + 20.0 * 0.1) / (views + 20.0);
            (rate / (1.0 - rate)).ln()
        });
        let user = |key: &u64| known(&USERS, 2, *key);
        let devices = DEVICES.map(key::from_text);
        let tag = |key: &u64| 1 + (key::hash(*key) % 10) as usize;
        Self {
            dense: vec![
                number(0).map_or(0.0, |age| ((1.0 + age).ln() - 3.5) / 0.5),
                f64::from(u8::from(number(0).is_none())),
                rate.unwrap_or(-2.0),
                number(3).unwrap_or(0.25),
                number(9).unwrap_or(0.0),
            ],
            user: keys(4).iter().map(user).collect(),
            device: keys(5).iter().map(|key| known(&devices, 1, *key)).collect(),
            tags: keys(6).iter().take(3).map(tag).collect(),
            friends: keys(7).iter().map(user).collect(),
            hour: vec![hour],
        }
    }
}

/// The row of a key: 0 is missing, then the rows that unseen keys share, then the known ones.
fn known(vocabulary: &[u64], unseen: usize, key: u64) -> usize {
    match vocabulary.iter().position(|&known| known == key) {
        Some(position) => 1 + unseen + position,
        None if key == MISSING_KEY => 0,
        None => 1 + (key::hash(key) % unseen as u64) as usize,
    }
}

struct Model<'a> {
    weights: &'a Weights,
}

impl Model<'_> {
    fn logits(&self, inputs: &Inputs) -> Vec<f64> {
        let bottom = relu(self.affine("bottom", "weight", &inputs.dense));
        let bags = [
            self.sum("user", &inputs.user),
            self.sum("device", &inputs.device),
            self.mean("tags", &inputs.tags),
            self.sum("user", &inputs.friends),
            self.sum("hour", &inputs.hour),
        ];
        let mut vectors = vec![bottom.clone()];
        vectors.extend(bags.clone());
        let mut dots = bottom;
        for i in 0..6 {
            for j in 0..i {
                dots.push((0..4).map(|d| vectors[i][d] * vectors[j][d]).sum());
            }
        }
        let x0 = vectors.concat();
        let cross = cross(&x0, &self.affine("cross", "weight", &x0), &x0);
        let inner = self.product("cross_low.v", &cross);
        let cross_low = self::cross(&x0, &self.affine("cross_low", "w", &inner), &cross);
        let sum = total(&bags);
        let deep = relu(self.affine("deep", "weight", &[dots, cross_low, sum.clone()].concat()));
        let top = self.product("top.weight", &deep);
        let wide = total(&[
            self.sum("user.wide", &inputs.user),
            self.mean("user.wide", &inputs.friends),
        ]);
        let squares = |d: usize| bags.iter().map(|bag| bag[d] * bag[d]).sum::<f64>();
        let fm: f64 = (0..4).map(|d| 0.5 * (sum[d] * sum[d] - squares(d))).sum();
        (0..2).map(|label| fm + top[label] + wide[label]).collect()
    }

    /// `W x` for the weight `name`, `[outputs, inputs]`.
    fn product(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.weights.get(name).unwrap();
        assert_eq!(weight.shape[1], x.len(), "{name}");
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        weight.values.chunks(x.len()).map(dot).collect()
    }

    fn affine(&self, node: &str, weight: &str, x: &[f64]) -> Vec<f64> {
        let bias = &self.weights.get(&format!("{node}.bias")).unwrap().values;
        let product = self.product(&format!("{node}.{weight}"), x);
        product
            .iter()
            .zip(bias)
            .map(|(y, b)| y + f64::from(*b))
            .collect()
    }

    fn sum(&self, table: &str, rows: &[usize]) -> Vec<f64> {
        let table = self.weights.get(&format!("embedding.{table}")).unwrap();
        let dim = table.shape[1];
        let column = |d| {
            rows.iter()
                .map(|row| f64::from(table.values[row * dim + d]))
                .sum()
        };
        (0..dim).map(column).collect()
    }

    fn mean(&self, table: &str, rows: &[usize]) -> Vec<f64> {
        let count = rows.len().max(1) as f64;
        self.sum(table, rows)
            .iter()
            .map(|sum| sum / count)
            .collect()
    }
}

fn relu(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x.max(0.0)).collect()
}

fn cross(x0: &[f64], projection: &[f64], x: &[f64]) -> Vec<f64> {
    (0..x.len()).map(|i| x0[i] * projection[i] + x[i]).collect()
}

fn total(vectors: &[Vec<f64>]) -> Vec<f64> {
    (0..vectors[0].len())
        .map(|d| vectors.iter().map(|vector| vector[d]).sum())
        .collect()
}
