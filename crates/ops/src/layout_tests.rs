//! Packed weights in files must have the layout that their number says.

use crate::linear::{CodedWeight, PackedWeight};
use crate::quant::{QuantFormat, QuantWeight};
use crate::testing::random;
use crate::{Cx, DType, Isa, LAYOUT, Tensor};
use hadal_base::checksum;
use std::convert::Infallible;

/// If this fails because a layout was changed on purpose, increase [`LAYOUT`] and write the new checksums here. Files
/// with the old number are then refused.
#[test]
fn the_layout_is_that_of_its_number() {
    for isa in Isa::available() {
        let cx = Cx::cpu(2, DType::Bf16).with_isa(isa);
        let (groups, n, k) = (2, 37, 201);
        let values = random(&cx, &[groups * n, k], DType::F32, 0.02, 1);
        let packed = |dtype| {
            let mut w = PackedWeight::new(&cx, groups, n, k, dtype, false);
            w.pack(&cx, &values);
            checksum(w.panels().as_bytes())
        };
        let quantised = |format| {
            let mut w = QuantWeight::new(&cx, format, groups, n, k);
            w.pack(&cx, &values);
            checksum(w.data().as_bytes())
        };
        let mut coded = CodedWeight::new(&cx, groups, n, k);
        let codes = |row: usize, out: &mut Tensor| {
            out.u8_mut().iter_mut().enumerate().for_each(|(i, c)| *c = (row * 7 + i * 3) as u8);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = coded.fill(&cx, &codes, &|row, out| out.fill(1.0 + row as f32));
        let found = [
            packed(DType::F32),
            packed(DType::Bf16),
            quantised(QuantFormat::Int8),
            quantised(QuantFormat::Int4),
            checksum(coded.codes().as_bytes()),
            checksum(coded.scales().as_bytes()),
        ];
        let first = [
            0x2410_d630_d26a_4398,
            0x07c7_c71c_b1de_d7f3,
            0xf0f1_a84e_c8b0_55b3,
            0xf1e7_0f9a_0076_543e,
            0x8830_a8da_7b4d_04b1,
            0x0cfa_8172_bc9d_e9d5,
        ];
        assert_eq!((LAYOUT, found), (1, first), "{isa:?}: {found:#x?}");
    }
}
