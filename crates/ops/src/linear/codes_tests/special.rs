//! NaN, infinities, zeros of either sign and tiny numbers in operands of products.

use super::products::{Case, E5M6_POWERS, PLAIN, POWERS, Task, Which, check};
use crate::linear::accumulator::Accumulator;
use crate::testing::contexts;
use crate::{Acc, DType};
use std::ops::Range;

/// Number of outputs and inputs: three tiles, of which the last is smaller.
const N: usize = 290;
const K: usize = 300;

/// Two groups of 150 and 140 rows.
fn plain() -> Case {
    Case { counts: vec![150, 140], n: N, k: K, uneven: false, ..PLAIN }
}

fn case(which: Which, (row, col): (usize, usize), v: f32) -> Case {
    Case { filled: vec![(which, row..row + 1, col..col + 1, v)], ..plain() }
}

/// Where the results are NaN: rows and columns.
type Place = Option<(Range<usize>, Range<usize>)>;

/// Checks the places of NaN in y, dx and dw, whose rows are those of both groups. They must be the same on every path
/// and with every accumulator, and the other results must be right.
fn spoils(c: &Case, places: [Place; 3]) {
    let task = Task::new(c);
    for ((want, cols), place) in task.want.iter().zip([c.n, c.k, c.k]).zip(&places) {
        for (i, v) in want.iter().enumerate() {
            let there = place.as_ref().is_some_and(|(r, cs)| r.contains(&(i / cols)) && cs.contains(&(i % cols)));
            assert_eq!(v.0.is_nan(), there, "{:?} [{}, {}]", c.filled, i / cols, i % cols);
        }
    }
    check(c);
    for cx in contexts() {
        for accumulator in [Accumulator::Promoted14, Accumulator::Only14] {
            let results = task.run_with(&cx, c, Some(accumulator));
            for ([got, _], want) in results.iter().zip(&task.want) {
                let same = got.iter().zip(want).all(|(got, want)| got.is_nan() == want.0.is_nan());
                assert!(same, "{:?} {accumulator:?} on {}", c.filled, cx.isa().name());
            }
        }
    }
}

#[test]
fn a_nan_spoils_its_row_or_column_and_nothing_else() {
    // A row of y, and a column of its group's dw. The same for the gradient.
    spoils(&case(Which::X, (151, 130), f32::NAN), [Some((151..152, 0..N)), None, Some((N..2 * N, 130..131))]);
    spoils(&case(Which::Dy, (149, 289), f32::NAN), [None, Some((149..150, 0..K)), Some((289..290, 0..K))]);
    // A column of y, one of dx, for the group's rows.
    spoils(&case(Which::W, (N + 3, 299), -f32::NAN), [Some((150..290, 3..4)), Some((150..290, 299..300)), None]);
}

#[test]
fn an_infinity_spoils_what_shares_its_scale() {
    // In a tile, only the row is affected, and in a tile of a column only the column.
    spoils(&case(Which::X, (0, 299), f32::INFINITY), [Some((0..1, 0..N)), None, Some((0..N, 299..300))]);
    spoils(&case(Which::Dy, (289, 0), f32::NEG_INFINITY), [None, Some((289..290, 0..K)), Some((N..N + 1, 0..K))]);
    // A block of the second group's weight.
    let block = [Some((150..290, 128..256)), Some((150..290, 256..300)), None];
    spoils(&case(Which::W, (N + 200, 260), f32::INFINITY), block);
}

/// In an operand that was already quantised, an infinity affects everything that shares its scale: the tile of its row.
#[test]
fn tiles_hand_on_what_they_are() {
    for style in [POWERS, E5M6_POWERS] {
        let given = |v| Case { x: Err(style), dy: Err(style), ..case(Which::X, (5, 100), v) };
        spoils(&given(f32::NAN), [Some((5..6, 0..N)), None, Some((0..N, 100..101))]);
        spoils(&given(f32::INFINITY), [Some((5..6, 0..N)), None, Some((0..N, 0..128))]);
    }
}

#[test]
fn zeros_and_subnormal_numbers_are_what_they_are() {
    for (out, acc) in [(DType::F32, Acc::Write), (DType::F32, Acc::Add), (DType::Bf16, Acc::Add)] {
        check(&Case {
            filled: vec![
                // Tiles, blocks and columns with only these values, and some of each among other numbers.
                (Which::X, 0..3, 0..128, 0.0),
                (Which::X, 3..4, 0..300, -0.0),
                (Which::X, 0..150, 200..201, 0.0),
                (Which::X, 150..290, 10..20, -1e-40),
                (Which::Dy, 128..150, 0..290, -0.0),
                (Which::Dy, 200..210, 5..9, 1e-42),
                (Which::W, 0..128, 128..256, 0.0),
                (Which::W, 290..580, 256..300, -0.0),
                (Which::W, 300..305, 0..9, f32::from_bits(1)),
            ],
            out,
            acc,
            ..plain()
        });
    }
}

/// A contraction over nothing is zero with any accumulator.
#[test]
fn nothing_to_sum_is_zero() {
    use crate::linear::PackedWeight;
    for cx in contexts() {
        for accumulator in [Accumulator::F32, Accumulator::Promoted14, Accumulator::Only14] {
            let mut weight = PackedWeight::new(&cx, 1, 20, 0, DType::U8, false);
            weight.pack(&cx, &cx.zeros(&[20, 0], DType::F32));
            let mut y = cx.empty(&[3, 20], DType::F32);
            accumulator.forward(&cx, &cx.zeros(&[3, 0], DType::Bf16), &weight, None, &mut y, Acc::Write);
            assert!(y.f32().iter().all(|v| *v == 0.0));
        }
    }
}

#[test]
#[should_panic(expected = "pack_group: a weight of codes is packed as a whole")]
fn codes_are_not_packed_by_group() {
    let cx = &contexts()[0];
    crate::linear::PackedWeight::new(cx, 2, 3, 4, DType::U8, false).pack_group(cx, 1, &[0.0; 12]);
}
