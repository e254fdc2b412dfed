//! The three products, grouped, on every path: operands, outputs and sizes of all kinds, compared with f64.

use crate::fp8::definition::Grid;
use crate::fp8::{E5M2, E5M6, Quantized, Shape, Style, TILE};
use crate::linear::accumulator::Accumulator;
use crate::linear::reference::{Sum, close, products, transposed};
use crate::linear::{Operand, PackedWeight, grouped_backward_input, grouped_backward_weight, grouped_forward};
use crate::testing::{contexts, random};
use crate::{Acc, Cx, DType, Tensor};
use proptest::prelude::*;
use std::ops::Range;

/// The form of an operand: floats, or already quantised.
pub(super) type Form = Result<DType, Style>;

#[derive(Clone, Debug)]
pub(super) struct Case {
    /// Rows of every group.
    pub(super) counts: Vec<usize>,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) x: Form,
    pub(super) dy: Form,
    /// How `backward_input` quantises gradients.
    pub(super) gradients: Style,
    /// Format of y and dx.
    pub(super) out: DType,
    pub(super) acc: Acc,
    /// Whether rows, tiles of rows and tiles of columns have very different magnitudes.
    pub(super) uneven: bool,
    /// Parts of an operand that are filled with a value.
    pub(super) filled: Vec<(Which, Range<usize>, Range<usize>, f32)>,
    pub(super) seed: u64,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    W,
    X,
    Dy,
}

pub(super) const POWERS: Style = Style { power_of_two: true, ..Style::TILES };
pub(super) const E5M6_POWERS: Style = Style { format: E5M6, ..POWERS };
const BLOCKS: Style = Style { shape: Shape::Block, ..Style::TILES };
const FORMS: [Form; 7] = [
    Ok(DType::F32),
    Ok(DType::Bf16),
    Err(Style::TILES),
    Err(POWERS),
    Err(E5M6_POWERS),
    Err(Style { format: E5M2, ..Style::TILES }),
    Err(Style { power_of_two: true, ..BLOCKS }),
];
/// Largest number of multiplications in a case, so that plain f64 code takes less than a second for the three products.
const WORK: usize = 40_000_000;

fn cases() -> impl Strategy<Value = Case> {
    let counts = prop::collection::vec(prop_oneof![Just(0usize), 1usize..6, 1usize..300, 500usize..600], 1..4);
    let size = || prop_oneof![1usize..40, 1usize..300, 500usize..1100];
    let form = || prop::sample::select(&FORMS[..]);
    let out = prop::sample::select(&[DType::F32, DType::Bf16][..]);
    let acc = prop::sample::select(&[Acc::Write, Acc::Add][..]);
    let gradients = prop::sample::select(&[Style::TILES, BLOCKS][..]);
    (counts, (size(), size()), (form(), form(), gradients), (out, acc), any::<bool>(), 0..u64::MAX / 2).prop_map(
        |(counts, (n, k), (x, dy, gradients), (out, acc), uneven, seed)| {
            let rows = counts.iter().sum::<usize>().max(1);
            let n = n.min(WORK / (rows * k)).max(1);
            Case { counts, n, k, x, dy, gradients, out, acc, uneven, seed, ..PLAIN }
        },
    )
}

/// Random values. If uneven, they are scaled by powers of two from row to row and from tile to tile.
fn matrix(cx: &Cx, c: &Case, which: Which, rows: usize) -> Tensor {
    let (cols, scale, form) = match which {
        Which::W => (c.k, 0.02, Ok(DType::F32)),
        Which::X => (c.k, 1.0, c.x),
        Which::Dy => (c.n, 1e-3, c.dy),
    };
    let mut values = random(cx, &[rows, cols], DType::F32, scale, c.seed + which as u64).to_vec_f32();
    for (i, v) in values.iter_mut().enumerate().filter(|_| c.uneven) {
        let (r, col) = (i / cols, i % cols);
        let steps = r * 5 % 7 + r / TILE * 3 % 7 + col / TILE * 5 % 11;
        *v *= (steps as f32 - 11.0).exp2();
    }
    for (_, rows, cols_filled, v) in c.filled.iter().filter(|f| f.0 == which) {
        rows.clone().for_each(|r| values[r * cols..][cols_filled.clone()].fill(*v));
    }
    cx.tensor(&[rows, cols], &values, form.unwrap_or(DType::F32))
}

/// An operand's values as `forward` or `backward_input` multiplies them after quantising in `style`, and as
/// `backward_weight` does.
fn seen(x: &Tensor, form: Form, style: Style, first: &[usize]) -> [Vec<f64>; 2] {
    let (values, cols, all) = (x.to_vec_f32(), x.cols(), [0, x.rows()]);
    let back = form.map_or_else(|given| Grid::of(given).rounded(&values, cols, &all), |_| values.clone());
    let along = match form {
        Err(given) if given.format == style.format && given.shape == style.shape => {
            Grid::of(given).exact(&values, cols, &all)
        }
        _ => Grid::of(style).exact(&back, cols, first),
    };
    [along, Grid::columns(form.err()).exact(&back, cols, first)]
}

/// The operands of a case, the first rows of its groups, and the expected y, dx and dw.
pub(super) struct Task {
    w: Tensor,
    x: Tensor,
    dy: Tensor,
    first: Vec<usize>,
    pub(super) want: [Vec<Sum>; 3],
}

impl Task {
    pub(super) fn new(c: &Case) -> Self {
        let (groups, n, k) = (c.counts.len(), c.n, c.k);
        let mut first = vec![0];
        c.counts.iter().for_each(|c| first.push(first[first.len() - 1] + c));
        let cx = &contexts()[0];
        let w = matrix(cx, c, Which::W, groups * n);
        // Rows after the last group must have no effect.
        let (x, dy) = (matrix(cx, c, Which::X, first[groups] + 2), matrix(cx, c, Which::Dy, first[groups] + 2));
        let starts: Vec<usize> = (0..=groups).map(|g| g * n).collect();
        let wq = Grid::WEIGHT.exact(&w.to_vec_f32(), k, &starts);
        let ([xq, xt], [dq, dt]) = (seen(&x, c.x, Style::TILES, &first), seen(&dy, c.dy, c.gradients, &first));
        let mut want = [vec![], vec![], vec![]];
        for g in 0..groups {
            let rows = first[g]..first[g + 1];
            let w = &wq[g * n * k..][..n * k];
            let (x, dy) = (rows.start * k..rows.end * k, rows.start * n..rows.end * n);
            want[0].extend(products(&xq[x.clone()], w, k));
            want[1].extend(products(&dq[dy.clone()], &transposed(w, k), n));
            if rows.is_empty() {
                want[2].extend(vec![(0.0, 0.0); n * k]);
            } else {
                want[2].extend(products(&transposed(&dt[dy], n), &transposed(&xt[x], k), rows.len()));
            }
        }
        Self { w, x, dy, first, want }
    }

    /// The results y, dx and dw, and their previous contents.
    pub(super) fn run(&self, cx: &Cx, c: &Case) -> [[Vec<f32>; 2]; 3] {
        self.run_with(cx, c, None)
    }

    /// The same with a given accumulator, if one is given.
    pub(super) fn run_with(&self, cx: &Cx, c: &Case, accumulator: Option<Accumulator>) -> [[Vec<f32>; 2]; 3] {
        let (groups, rows) = (c.counts.len(), self.x.rows());
        let mut packed = PackedWeight::new(cx, groups, c.n, c.k, DType::U8, true).with_gradients(c.gradients);
        packed.pack(cx, &self.w);
        let offsets = cx.indices(&[groups + 1], &self.first.iter().map(|v| *v as i32).collect::<Vec<_>>());
        let tiles = |x: &Tensor, form: Form| form.err().map(|style| Quantized::new(cx, x, style));
        let (x_tiles, dy_tiles) = (tiles(&self.x, c.x), tiles(&self.dy, c.dy));
        let x = x_tiles.as_ref().map_or(Operand::Plain(self.x.mat()), Operand::Tiles);
        let dy = dy_tiles.as_ref().map_or(Operand::Plain(self.dy.mat()), Operand::Tiles);
        // The previous contents have the magnitude of the results.
        let full = |rows, cols, dtype, scale| random(cx, &[rows, cols], dtype, scale, c.seed + 3);
        let (mut y, mut dx) = (full(rows, c.n, c.out, 0.3), full(rows, c.k, c.out, 1e-4));
        let mut dw = full(groups * c.n, c.k, DType::F32, 1e-2);
        let old = [&y, &dx, &dw].map(Tensor::to_vec_f32);
        if let Some(accumulator) = accumulator {
            accumulator.forward(cx, x, &packed, Some(&offsets), &mut y, c.acc);
            accumulator.backward_input(cx, dy, &packed, Some(&offsets), &mut dx, c.acc);
            accumulator.backward_weight(cx, dy, x, Some(&offsets), &mut dw, c.acc);
        } else {
            grouped_forward(cx, x, &packed, &offsets, &mut y, c.acc);
            grouped_backward_input(cx, dy, &packed, &offsets, &mut dx, c.acc);
            grouped_backward_weight(cx, dy, x, &offsets, DType::U8, &mut dw, c.acc);
        }
        let mut old = old.into_iter();
        [y, dx, dw].map(|t| [t.to_vec_f32(), old.next().unwrap_or_default()])
    }
}

/// Runs a case on every path and compares.
pub(super) fn check(c: &Case) {
    let task = Task::new(c);
    let [y_want, dx_want, dw_want] = &task.want;
    for cx in contexts() {
        let what = |product| format!("{product} on {}", cx.isa().name());
        let [y, dx, dw] = task.run(&cx, c);
        for (product, [got, old], want, k) in [("forward", y, y_want, c.k), ("backward_input", dx, dx_want, c.n)] {
            close(&what(product), (&got[..want.len()], c.out), &old[..want.len()], c.acc, want, k);
            assert!(got[want.len()..] == old[want.len()..], "{product}: rows of no group");
        }
        let [got, old] = dw;
        for (g, rows) in c.counts.iter().enumerate() {
            let part = g * c.n * c.k..(g + 1) * c.n * c.k;
            let (got, old) = (&got[part.clone()], &old[part.clone()]);
            close(&what("backward_weight"), (got, DType::F32), old, c.acc, &dw_want[part], *rows);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn products_of_codes_agree_with_f64(c in cases()) {
        check(&c);
    }
}

pub(super) const PLAIN: Case = Case {
    counts: vec![],
    n: 1,
    k: 1,
    x: Ok(DType::Bf16),
    dy: Ok(DType::F32),
    gradients: Style::TILES,
    out: DType::F32,
    acc: Acc::Write,
    uneven: true,
    filled: vec![],
    seed: 1,
};

/// Weight gradients over one full scratch of rows, one row more, and several. Only the last group ends with a whole
/// tile.
#[test]
fn weight_gradients_over_many_rows_agree_with_f64() {
    for acc in [Acc::Write, Acc::Add] {
        check(&Case { counts: vec![512, 513, 1100], n: 37, k: 50, acc, ..PLAIN });
        check(&Case {
            counts: vec![3, 1100, 0, 1537],
            n: 20,
            k: 33,
            x: Err(E5M6_POWERS),
            dy: Err(POWERS),
            acc,
            ..PLAIN
        });
    }
}

/// Contractions over several scratches, and outputs of several blocks of panels: 528 lanes per block.
#[test]
fn long_and_wide_products_agree_with_f64() {
    for (out, acc) in
        [(DType::F32, Acc::Write), (DType::F32, Acc::Add), (DType::Bf16, Acc::Write), (DType::Bf16, Acc::Add)]
    {
        check(&Case { counts: vec![3, 0, 10], n: 1103, k: 1301, out, acc, ..PLAIN });
        check(&Case { counts: vec![19], n: 1060, k: 700, x: Err(POWERS), dy: Err(Style::TILES), out, acc, ..PLAIN });
    }
}
