//! AUC inside each group (such as a user), averaged with the groups' rows as weights (GAUC; Zhu et
//! al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017, section 4.1). Rows whose
//! group is missing are no group, and do not count.

use streamrec_artifact::MISSING_KEY;

use super::{Predictions, ordered};
use crate::comm::{CommError, Communicator, all_reduce_f64};

/// The mean AUC over groups that hold both classes; the others have no AUC and do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupedAuc {
    /// The mean, weighted by rows.
    pub auc: f64,
    /// Groups that counted.
    pub groups: u64,
    /// Rows in them.
    pub rows: u64,
}

/// One row on its way to the rank that owns its group.
type Row = (u64, u32, bool);

/// Bytes of a [`Row`] in a message: group, score, class.
const ROW_BYTES: usize = 8 + 4 + 1;

/// GAUC over all ranks; `None` where no group holds both classes. Collective.
///
/// # Errors
/// When a collective fails.
pub fn grouped_auc(
    comm: &dyn Communicator,
    local: &Predictions,
) -> Result<Option<GroupedAuc>, CommError> {
    let keyed = local.counted().filter(|(row, ..)| {
        local
            .groups
            .get(*row)
            .is_some_and(|&group| group != MISSING_KEY)
    });
    let mut rows: Vec<Row> = keyed
        .map(|(row, score, happened)| (local.groups[row], ordered(score), happened))
        .collect();
    if comm.size() > 1 {
        rows = exchange(comm, &rows)?;
    }
    rows.sort_unstable();
    let mut sums = [0.0f64; 3];
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        if let Some(auc) = auc_of_sorted(group) {
            let size = group.len() as f64;
            sums = [sums[0] + size * auc, sums[1] + 1.0, sums[2] + size];
        }
    }
    all_reduce_f64(comm, &mut sums)?;
    let [weighted, groups, rows] = sums;
    Ok((groups > 0.0).then(|| GroupedAuc {
        auc: weighted / rows,
        groups: groups as u64,
        rows: rows as u64,
    }))
}

/// Sends each row to the rank that owns its group.
fn exchange(comm: &dyn Communicator, rows: &[Row]) -> Result<Vec<Row>, CommError> {
    let mut messages: Vec<_> = (0..comm.size()).map(|_| comm.message()).collect();
    for (group, score, happened) in rows {
        let message = &mut messages[(group % comm.size() as u64) as usize];
        message.extend_from_slice(&group.to_le_bytes());
        message.extend_from_slice(&score.to_le_bytes());
        message.extend_from_slice(&[u8::from(*happened)]);
    }
    let received = comm.all_to_all_bytes(messages).wait()?;
    let packed = received
        .iter()
        .flat_map(|message| message.as_chunks::<ROW_BYTES>().0);
    Ok(packed.map(unpack).collect())
}

fn unpack(bytes: &[u8; ROW_BYTES]) -> Row {
    let [g0, g1, g2, g3, g4, g5, g6, g7, s0, s1, s2, s3, class] = *bytes;
    (
        u64::from_le_bytes([g0, g1, g2, g3, g4, g5, g6, g7]),
        u32::from_le_bytes([s0, s1, s2, s3]),
        class == 1,
    )
}

/// AUC of one group whose rows are sorted by score, by the rank-sum formula with mid-ranks.
fn auc_of_sorted(rows: &[Row]) -> Option<f64> {
    let positives = rows.iter().filter(|row| row.2).count();
    let negatives = rows.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let (mut twice_wins, mut negatives_below) = (0u64, 0);
    for tie in rows.chunk_by(|a, b| a.1 == b.1) {
        let positives_here = tie.iter().filter(|row| row.2).count();
        let negatives_here = tie.len() - positives_here;
        twice_wins += (positives_here * (2 * negatives_below + negatives_here)) as u64;
        negatives_below += negatives_here;
    }
    Some(twice_wins as f64 / (2.0 * positives as f64 * negatives as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::SingleRank;

    fn gauc(rows: &[(u64, f32, f32)]) -> Option<GroupedAuc> {
        let mut predictions = Predictions::default();
        for (group, probability, label) in rows {
            predictions.push(*probability, *label, 1.0, Some(*group));
        }
        grouped_auc(&SingleRank, &predictions).expect("one rank cannot fail")
    }

    #[test]
    fn groups_weigh_by_rows_and_one_class_groups_do_not_count() {
        let rows = [
            (1, 0.9, 1.0),
            (1, 0.1, 0.0),
            (2, 0.2, 1.0),
            (2, 0.3, 0.0),
            (2, 0.2, 0.0),
            (3, 0.5, 1.0),
        ];
        let result = gauc(&rows).expect("two groups hold both classes");
        // Group 1: 1 over 2 rows; group 2: (0 + 0.5)/2 over 3 rows.
        assert!((result.auc - (2.0 * 1.0 + 3.0 * 0.25) / 5.0).abs() < 1e-12);
        assert_eq!((result.groups, result.rows), (2, 5));
        assert_eq!(gauc(&rows[5..]), None);
    }

    #[test]
    fn rows_without_a_group_do_not_count() {
        let grouped = [(1, 0.9, 1.0), (1, 0.1, 0.0)];
        let missing = [(MISSING_KEY, 0.1, 1.0), (MISSING_KEY, 0.9, 0.0)];
        let all = [grouped, missing].concat();
        assert_eq!(gauc(&all), gauc(&grouped));
    }
}
