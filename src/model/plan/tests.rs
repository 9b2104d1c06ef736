use super::*;

fn node(role: Role, width: usize, inputs: &[usize]) -> PlannedNode {
    PlannedNode {
        role,
        width,
        inputs: inputs.to_vec(),
    }
}

/// dense, bottom, embeddings, features = [bottom, embeddings], interaction, top.
fn dlrm() -> Vec<PlannedNode> {
    vec![
        node(Role::Dense, 3, &[]),
        node(Role::Linear, 4, &[0]),
        node(Role::Embeddings, 8, &[]),
        node(Role::Concat, 12, &[1, 2]),
        node(Role::Other, 7, &[3]),
        node(Role::Linear, 1, &[4]),
    ]
}

#[test]
fn what_is_concatenated_is_written_in_place() {
    let places = Places::new(&dlrm());
    assert_eq!(places.widths, [12, 7, 1]);
    assert_eq!(places.nodes[0].buffer, None);
    assert_eq!(
        places.nodes[1],
        Place {
            buffer: Some(0),
            columns: 0..4
        }
    );
    assert_eq!(
        places.nodes[2],
        Place {
            buffer: Some(0),
            columns: 4..12
        }
    );
    assert_eq!(
        places.nodes[3],
        Place {
            buffer: Some(0),
            columns: 0..12
        }
    );
    assert_eq!(places.in_place[3], [true, true]);
}

#[test]
fn the_dense_features_need_no_gradient() {
    let nodes = dlrm();
    let plan = GradientPlan::new(&nodes, &Places::new(&nodes));
    assert_eq!(plan.places[0], None);
    assert_eq!(plan.writes[1], [None]);
    let write = plan.writes[4][0].as_ref().unwrap();
    assert_eq!((write.columns.clone(), write.accumulate), (0..12, false));
    assert_eq!(plan.writes[3], [None, None]);
}

#[test]
fn a_batch_input_is_copied_into_a_concatenation() {
    let nodes = [
        node(Role::Dense, 3, &[]),
        node(Role::Embeddings, 4, &[]),
        node(Role::Concat, 7, &[0, 1]),
        node(Role::Linear, 1, &[2]),
    ];
    let places = Places::new(&nodes);
    assert_eq!(places.in_place[2], [false, true]);
    assert_eq!(
        places.nodes[1],
        Place {
            buffer: Some(0),
            columns: 3..7
        }
    );
    assert_eq!(GradientPlan::new(&nodes, &places).places[0], None);
}

#[test]
fn no_node_reads_the_buffer_that_it_writes() {
    // h2 reads h1, and both are concatenated: one of them must stay outside.
    let nodes = [
        node(Role::Embeddings, 4, &[]),
        node(Role::Linear, 3, &[0]),
        node(Role::Linear, 3, &[1]),
        node(Role::Concat, 6, &[1, 2]),
        node(Role::Linear, 1, &[3]),
    ];
    let places = Places::new(&nodes);
    assert_eq!(places.in_place[3], [true, false]);
    let plan = GradientPlan::new(&nodes, &places);
    // h1's gradient comes from the concatenation first, then from h2.
    let write = plan.writes[2][0].as_ref().unwrap();
    assert!(write.accumulate && write.zero.is_empty());
}

#[test]
fn a_node_concatenated_twice_is_copied_once() {
    let nodes = [
        node(Role::Embeddings, 4, &[]),
        node(Role::Concat, 8, &[0, 0]),
        node(Role::Linear, 1, &[1]),
    ];
    let places = Places::new(&nodes);
    // The copy would read the buffer that it writes, so neither lies in place.
    assert_eq!(places.in_place[1], [false, false]);
    let plan = GradientPlan::new(&nodes, &places);
    let accumulate: Vec<bool> = plan.writes[1]
        .iter()
        .map(|write| write.as_ref().unwrap().accumulate)
        .collect();
    assert_eq!(accumulate, [true, false]);
}

#[test]
fn a_gradient_partly_written_is_completed_with_zeros() {
    // The sum over the embeddings comes after the concatenation's reader, so it writes first.
    let nodes = [
        node(Role::Dense, 3, &[]),
        node(Role::Embeddings, 4, &[]),
        node(Role::Concat, 7, &[0, 1]),
        node(Role::Linear, 2, &[2]),
        node(Role::Other, 2, &[1]),
        node(Role::Other, 2, &[3, 4]),
    ];
    let places = Places::new(&nodes);
    let plan = GradientPlan::new(&nodes, &places);
    let sum = plan.writes[4][0].as_ref().unwrap();
    assert_eq!((sum.columns.clone(), sum.accumulate), (3..7, false));
    let deep = plan.writes[3][0].as_ref().unwrap();
    assert_eq!(
        (deep.zero.clone(), deep.accumulate),
        (vec![std::ops::Range { start: 0, end: 3 }], true)
    );
}

#[test]
fn two_gradients_in_one_buffer_go_through_the_temporary() {
    // cross(x0, x0), then cross(x0, x1).
    let nodes = [
        node(Role::Embeddings, 4, &[]),
        node(Role::Cross, 4, &[0, 0]),
        node(Role::Cross, 4, &[0, 1]),
    ];
    let plan = GradientPlan::new(&nodes, &Places::new(&nodes));
    let through = |reader: usize| {
        let writes = plan.writes[reader].iter();
        writes
            .map(|write| write.as_ref().unwrap().through_temporary)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (through(1), through(2)),
        (vec![true, false], vec![false, false])
    );
    assert_eq!(plan.temporary_width, 4);
}

#[test]
fn what_depends_on_no_embedding_goes_forward_first() {
    let nodes = [
        node(Role::Embeddings, 4, &[]),
        node(Role::Dense, 3, &[]),
        node(Role::Linear, 4, &[1]),
        node(Role::Concat, 8, &[2, 0]),
        node(Role::Linear, 2, &[1]),
        node(Role::Linear, 1, &[3]),
    ];
    assert_eq!(by_embeddings(&nodes), [vec![1, 2, 4], vec![0, 3, 5]]);
    assert_eq!(first_reader_of_embeddings(&nodes), 3);
    let dense = [node(Role::Dense, 3, &[]), node(Role::Linear, 4, &[0])];
    assert_eq!(first_reader_of_embeddings(&dense), 2);
}

#[test]
fn gradients_that_are_never_alive_together_share_memory() {
    let mut nodes = vec![node(Role::Embeddings, 4, &[])];
    nodes.extend((0..6).map(|index| node(Role::Linear, 10, &[index])));
    let plan = GradientPlan::new(&nodes, &Places::new(&nodes));
    // Two for the chain, and the one of the embeddings, which must outlive the pass.
    assert!(plan.slot_widths.len() <= 3, "{:?}", plan.slot_widths);
    for reader in 1..nodes.len() {
        let own = plan.places[reader].as_ref().unwrap().slot;
        assert_ne!(own, plan.writes[reader][0].as_ref().unwrap().slot);
    }
}

#[test]
fn a_gradient_is_masked_by_the_only_layer_that_writes_it() {
    // Two layers on the embeddings; the second one's value is read twice; the last two follow each other.
    let nodes = vec![
        node(Role::Embeddings, 8, &[]),
        node(Role::Linear, 4, &[0]),
        node(Role::Linear, 4, &[1]),
        node(Role::Linear, 4, &[2]),
        node(Role::Other, 4, &[2, 3]),
        node(Role::Linear, 4, &[4]),
        node(Role::Linear, 1, &[5]),
    ];
    let places = Places::new(&nodes);
    let plan = GradientPlan::new(&nodes, &places);
    let linear = |node: usize| nodes[node].role == Role::Linear;
    let masks = Masks::new(&nodes, &places, &plan, linear, linear);
    let masked: Vec<usize> = (0..7).filter(|&node| masks.is_masked(node)).collect();
    let masking: Vec<usize> = (0..7).filter(|&node| masks.masks_input(node)).collect();
    assert_eq!((masked, masking), (vec![1, 5], vec![2, 6]));

    // What lies in a concatenation is masked by its own layer.
    let nodes = dlrm();
    let places = Places::new(&nodes);
    let plan = GradientPlan::new(&nodes, &places);
    let masks = Masks::new(&nodes, &places, &plan, |_| true, |_| true);
    assert!(!masks.is_masked(1) && !masks.is_masked(2) && masks.is_masked(4));
}
