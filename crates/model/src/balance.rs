//! Auxiliary-loss-free load balancing (report 2.1.2). After each optimiser step, each MoE layer's selection biases move
//! by a fixed step against the load of the whole global batch. The loads are integers, so the rule is exact: the result
//! does not depend on how the step was split.

use hadal_ops::Tensor;

/// `b_i -= gamma` if expert i got more than the mean load, `+= gamma` if less, unchanged if equal.
///
/// `loads` i32 `[E]` over the whole step, `bias` f32 `[E]`.
pub fn update_bias(bias: &mut Tensor, loads: &Tensor, gamma: f32) {
    let loads = loads.i32();
    let total: i64 = loads.iter().map(|l| i64::from(*l)).sum();
    let experts = loads.len() as i64;
    for (b, load) in bias.f32_mut().iter_mut().zip(loads) {
        match (i64::from(*load) * experts).cmp(&total) {
            std::cmp::Ordering::Greater => *b -= gamma,
            std::cmp::Ordering::Less => *b += gamma,
            std::cmp::Ordering::Equal => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_ops::{Cx, DType};

    #[test]
    fn the_bias_moves_against_the_load_and_stays_where_it_is_even() {
        let cx = Cx::cpu(1, DType::F32);
        let mut bias = cx.tensor(&[4], &[0.0, 0.5, -0.5, 0.25], DType::F32);
        update_bias(&mut bias, &cx.indices(&[4], &[10, 4, 6, 4]), 0.125);
        assert_eq!(bias.f32(), [-0.125, 0.625, -0.5, 0.375]);
        update_bias(&mut bias, &cx.indices(&[4], &[7, 7, 7, 7]), 0.125);
        assert_eq!(bias.f32(), [-0.125, 0.625, -0.5, 0.375]);
    }
}
