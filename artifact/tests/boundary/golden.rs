//! Golden examples: the probes they add and the scores they compare.

use streamrec_artifact::{Encoded, Encoder, Golden, GoldenError};

use crate::fixture::{artifact, raw};

#[test]
fn probes_cover_missing_and_unseen_values() {
    let artifact = artifact();
    let encoder = Encoder::new(&artifact.manifest.schema, &artifact.vocabularies).unwrap();
    let probed = Golden::with_probes(&raw(0, 6));
    let mut encoded = Encoded::default();
    encoder.encode(&probed, &mut encoded).unwrap();
    assert_eq!(probed.rows, 8);
    assert_eq!(encoded.bag(0, 6), [0], "a missing user");
    assert!((1..=2).contains(&encoded.bag(0, 7)[0]), "an unseen user");
    assert!(encoded.bag(1, 6).is_empty(), "a missing list");
}

#[test]
fn scores_within_tolerance_pass_and_others_do_not() {
    let golden = artifact().golden;
    let mut probabilities = golden.probabilities.clone();
    assert_eq!(
        golden.check_probabilities(&probabilities, 0.0).unwrap(),
        0.0
    );
    probabilities[2] += 1e-3;
    let error = golden
        .check_probabilities(&probabilities, 1e-5)
        .unwrap_err();
    let message = error.to_string();
    assert!(message.contains("golden row 2"), "{message}");
    assert!(message.contains("probability"), "{message}");
    let mut logits = golden.logits.clone();
    assert_eq!(golden.check_logits(&logits, 0.0).unwrap(), 0.0);
    logits[3] += 1e-3;
    assert!(golden.check_logits(&logits, 1e-2).unwrap() > 0.0);
    assert!(matches!(
        golden.check_logits(&logits, 1e-5),
        Err(GoldenError::Score {
            row: 3,
            label: 0,
            ..
        })
    ));
    logits[3] = f32::NAN;
    assert!(matches!(
        golden.check_logits(&logits, 1e9),
        Err(GoldenError::Score { .. })
    ));
    logits.pop();
    assert!(matches!(
        golden.check_logits(&logits, 1.0),
        Err(GoldenError::Scores { .. })
    ));
}
