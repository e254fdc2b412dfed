//! Small float formats, value by value. This is the definition that the vectorised paths are tested against.

/// A binary float format of at most 16 bits with subnormal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MiniFloat {
    /// Bits of the exponent.
    pub exponent_bits: u32,
    /// Bits of the mantissa.
    pub mantissa_bits: u32,
    /// Number that is subtracted from the exponent's field.
    pub bias: i32,
    /// Code of the largest finite value.
    pub max_code: u16,
    /// Code of the positive NaN.
    pub nan_code: u16,
}

/// E4M3 (fn): no infinity, one NaN per sign, largest value 448, smallest 2^-9.
pub const E4M3: MiniFloat = MiniFloat { exponent_bits: 4, mantissa_bits: 3, bias: 7, max_code: 0x7e, nan_code: 0x7f };
/// E5M2: IEEE-like, largest finite value 57344, smallest 2^-16.
pub const E5M2: MiniFloat = MiniFloat { exponent_bits: 5, mantissa_bits: 2, bias: 15, max_code: 0x7b, nan_code: 0x7f };
/// E5M6: twelve bits, for the input of the linear layer after attention (report 3.3.3), exact in bf16. The highest code
/// of its exponent is an ordinary one; the report does not say. Largest value 129024, smallest 2^-20. The last code is
/// NaN.
pub const E5M6: MiniFloat =
    MiniFloat { exponent_bits: 5, mantissa_bits: 6, bias: 15, max_code: 0x7fe, nan_code: 0x7ff };

impl MiniFloat {
    /// Number of bits of a code, including the sign.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits
    }

    /// The largest finite value.
    pub fn max(self) -> f32 {
        self.decode(self.max_code)
    }

    /// The nearest code, with ties to even. A value that is too large, including infinity, becomes the largest finite
    /// value, as in the saturating conversions of GPUs. NaN stays NaN.
    pub fn encode(self, x: f32) -> u16 {
        let sign = u16::from(x.is_sign_negative()) << (self.exponent_bits + self.mantissa_bits);
        if x.is_nan() {
            return sign | self.nan_code;
        }
        let a = x.abs();
        if a >= self.max() {
            return sign | self.max_code;
        }
        // The exponent of the binade that contains a. Subnormal numbers have the exponent of the smallest normal
        // number.
        let least = 1 - self.bias;
        let exponent = (((a.to_bits() >> 23) as i32) - 127).max(least);
        let steps = (f64::from(a) * f64::from(self.mantissa_bits as i32 - exponent).exp2()).round_ties_even() as u16;
        // Rounding up to the next binade carries into the exponent.
        let code = (((exponent - least) as u16) << self.mantissa_bits) + steps;
        sign | code.min(self.max_code)
    }

    /// The value of a code; bits above the format's are ignored.
    pub fn decode(self, code: u16) -> f32 {
        let (e, m) = (self.exponent_bits, self.mantissa_bits);
        let magnitude = code & ((1 << (e + m)) - 1);
        let sign = if code >> (e + m) & 1 == 1 { -1.0 } else { 1.0 };
        if magnitude > self.max_code {
            // In formats with infinity, its code is between the largest finite value and NaN.
            let value =
                if magnitude == self.max_code + 1 && magnitude != self.nan_code { f32::INFINITY } else { f32::NAN };
            return value.copysign(sign);
        }
        let (field, mantissa) = (i32::from(magnitude >> m), f32::from(magnitude & ((1 << m) - 1)));
        let fraction = mantissa * (-f32::from(m as u16)).exp2();
        if field == 0 {
            return sign * fraction * ((1 - self.bias) as f32).exp2();
        }
        sign * (1.0 + fraction) * ((field - self.bias) as f32).exp2()
    }
}

/// The power of two of a UE8M0 code: `2^(code - 127)`; 255 is NaN.
pub fn scale_from_ue8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22), // 2^-127 is subnormal
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// The UE8M0 code of a scale that is a power of two. `None` if it is not a power of two, or out of range.
pub fn ue8m0_from_scale(scale: f32) -> Option<u8> {
    let bits = scale.to_bits();
    let code = if bits == 1 << 22 { 0 } else { u8::try_from(bits >> 23).ok()? };
    (code != 255 && scale_from_ue8m0(code) == scale).then_some(code)
}
