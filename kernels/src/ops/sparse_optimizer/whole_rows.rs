use super::{
    SparseRule,
    update::{clip_and_decay, squares_in_f64, sum_of_squares},
};
use crate::{
    device::{Context, Device, DisjointMut},
    error::Result,
    ops::{embedding_bag::RowGradients, operand::expect_float},
    simd::multiversion,
    tensor::TensorRef,
};

const OPERATION: &str = "sparse_optimizer::row_products";

/// Rows of one parallel task.
const PANEL_ROWS: usize = 256;

/// What the update of some columns of a table must know of the others: a row's norm, and the mean of
/// its squares, are those of the whole row. One element for each row of the gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeRows {
    /// Squared norm of the gradient. `[touched]`
    pub(super) squares: Vec<f64>,
    /// Mean of the squares after clipping and decay. `[touched]`
    pub(super) mean_squares: Vec<f32>,
}

impl WholeRows {
    /// From the sums of [`row_products`] over all columns of the table, `dim` of them.
    pub fn new(rule: &SparseRule, products: &[[f64; 3]], dim: usize) -> Self {
        let decay = f64::from(rule.weight_decay());
        let mean = |&[gg, gw, ww]: &[f64; 3]| {
            let norm = gg.sqrt();
            let clip = match rule.max_row_norm() {
                Some(max) if norm > f64::from(max) => f64::from(max) / norm,
                _ => 1.0,
            };
            // |clip g + decay w|^2
            let squares = clip * clip * gg + 2.0 * clip * decay * gw + decay * decay * ww;
            (squares / dim as f64) as f32
        };
        Self {
            squares: products.iter().map(|&[gg, ..]| gg).collect(),
            mean_squares: products.iter().map(mean).collect(),
        }
    }
}

impl WholeRows {
    /// From whole rows of the gradient and of the table, `[touched, dim]` each: what the update of a
    /// table with all columns finds, to the bit.
    ///
    /// # Panics
    /// When the two differ in length.
    pub fn of_rows(rule: &SparseRule, gradient: &[f32], table: &[f32], dim: usize) -> Self {
        assert_eq!(gradient.len(), table.len(), "a row of each");
        let (mut squares, mut mean_squares) = (Vec::new(), Vec::new());
        let mut g = vec![0.0; dim];
        let rows = gradient.chunks_exact(dim.max(1));
        for (gradient, w) in rows.zip(table.chunks_exact(dim.max(1))) {
            g.copy_from_slice(gradient);
            let [square, mean] = clipped_squares(rule, w, &mut g);
            squares.push(square);
            mean_squares.push(mean as f32);
        }
        Self {
            squares,
            mean_squares,
        }
    }
}

multiversion! {
    /// As the update does: the squared norm of `g`, then the mean of its squares after clipping and
    /// decay.
    fn clipped_squares(rule: &SparseRule, w: &[f32], g: &mut [f32]) -> [f64; 2] {
        let squares = squares_in_f64(g);
        clip_and_decay(rule, squares, w, g);
        [squares, f64::from(sum_of_squares(g) / g.len() as f32)]
    }
}

/// For each row of the gradient of some columns of a table, `[g g, g w, w w]` over these columns.
///
/// # Errors
/// When the gradient does not fit the table.
pub fn row_products(
    context: &Context,
    table: TensorRef<'_>,
    gradient: &RowGradients,
) -> Result<Vec<[f64; 3]>> {
    let [rows, dim] = table.shape();
    expect_float(OPERATION, "table", &table, [rows, dim])?;
    gradient.view().check(OPERATION, dim, rows)?;
    let mut products = vec![[0.0; 3]; gradient.ids.len()];
    let own = DisjointMut::new(&mut products);
    match context.device() {
        Device::Cpu => context.for_each_panel(gradient.ids.len(), PANEL_ROWS, |range| {
            let ids = &gradient.ids[range.clone()];
            let rows = &gradient.rows[range.start * dim..range.end * dim];
            // SAFETY: panels are disjoint ranges, one call each.
            let products = unsafe { own.slice(range) };
            product_panel(table, ids, rows, products);
        }),
    }
    Ok(products)
}

multiversion! {
    fn product_panel(table: TensorRef<'_>, ids: &[i64], rows: &[f32], products: &mut [[f64; 3]]) {
        let dim = table.shape()[1];
        let mut scratch = Vec::new();
        for (index, product) in products.iter_mut().enumerate() {
            let w = table.wide_row(ids[index] as usize, &mut scratch);
            let g = &rows[index * dim..][..dim];
            for (&g, &w) in g.iter().zip(w) {
                let (g, w) = (f64::from(g), f64::from(w));
                product[0] += g * g;
                product[1] += g * w;
                product[2] += w * w;
            }
        }
    }
}
