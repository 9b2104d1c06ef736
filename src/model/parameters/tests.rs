use streamrec_artifact::{Init, Parameter};
use streamrec_kernels::Context;

use super::*;
use crate::{comm::SingleRank, model::ModelError};

fn parameter(name: &str, shape: &[usize]) -> Parameter {
    let shape = shape.to_vec();
    Parameter {
        name: name.into(),
        fan_in: 3,
        fan_out: 3,
        shape,
        init: Init::GlorotUniform,
    }
}

fn store(bucket_bytes: usize) -> ParameterStore {
    let mut builder = ParameterBuilder::new(7);
    builder.dense(parameter("a.weight", &[4, 5]));
    builder.dense(parameter("a.bias", &[4]));
    builder.dense(parameter("b.weight", &[2, 4]));
    builder.table(parameter("embedding.t", &[6, 3]));
    let context = Context::cpu(1, false).unwrap();
    let buckets = BucketSettings {
        first_bucket_bytes: bucket_bytes,
        bucket_bytes,
    };
    builder.build(&context, &SingleRank, buckets).unwrap()
}

#[test]
fn weights_do_not_depend_on_buckets() {
    let (small, large) = (store(1), store(1 << 20));
    assert_eq!(small.layout().buckets().len(), 3);
    assert_eq!(large.layout().buckets().len(), 1);
    let values = |store: &ParameterStore| -> Vec<(String, Vec<f32>)> {
        let slices = store.named_slices();
        slices
            .map(|slice| (slice.name, slice.values.to_f32()))
            .collect()
    };
    assert_eq!(values(&small), values(&large));
    assert_eq!(small.count(), 20 + 4 + 8 + 18);
}

#[test]
fn two_gradients_are_written_side_by_side_in_any_buckets() {
    for bucket_bytes in [1, 1 << 20] {
        let mut store = store(bucket_bytes);
        let ids = ["a.weight", "a.bias"].map(|name| store.find(name).unwrap());
        let [mut weight, mut bias] = store.gradients_mut().get_two_mut(ids[0], ids[1]).unwrap();
        assert_eq!((weight.shape(), bias.shape()), ([4, 5], [1, 4]));
        weight.row_mut(3).fill(1.0);
        bias.row_mut(0).fill(2.0);
        let sum = |id| store.gradients().get(id).unwrap().iter().sum::<f32>();
        assert_eq!(ids.map(sum), [5.0, 8.0]);
    }
}

#[test]
fn a_bucket_in_flight_is_an_error_that_names_a_parameter() {
    let mut store = store(1);
    let id = store.find("b.weight").unwrap();
    let buffer = store.gradients_mut().take_bucket(0).unwrap();
    for error in [
        store.gradients().get(id).unwrap_err(),
        store.gradients().bucket(0).unwrap_err(),
        store.gradients_mut().take_bucket(0).unwrap_err(),
    ] {
        assert!(
            matches!(&error, ModelError::GradientInFlight { parameter } if parameter == "b.weight")
        );
    }
    store.gradients_mut().put_bucket(0, buffer);
    assert!(store.gradients().get(id).is_ok());
}

#[test]
fn named_tensors_are_loaded_by_name_and_shape() {
    let mut store = store(1);
    store
        .load_named("a.bias", &[4], &[1.0, 2.0, 3.0, 4.0])
        .unwrap();
    let id = store.find("a.bias").unwrap();
    assert_eq!(store.weight(id).row(0), [1.0, 2.0, 3.0, 4.0]);
    store
        .load_named("embedding.t", &[6, 3], &[0.5; 18])
        .unwrap();
    let table = store.find_table("embedding.t").unwrap();
    assert_eq!(store.table(table).view().row(5), [0.5; 3]);
    assert!(store.load_named("a.bias", &[2, 2], &[0.0; 4]).is_err());
    assert!(store.load_named("c.bias", &[4], &[0.0; 4]).is_err());
}

#[test]
fn one_name_twice_is_refused() {
    let mut builder = ParameterBuilder::new(7);
    builder.dense(parameter("a.weight", &[4, 5]));
    builder.table(parameter("a.weight", &[4, 5]));
    let context = Context::cpu(1, false).unwrap();
    assert!(
        builder
            .build(&context, &SingleRank, BucketSettings::default())
            .is_err()
    );
}
