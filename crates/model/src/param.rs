//! Parameters and their gradients.
//!
//! A [`Param`] is one f32 master tensor made of named parts (the checkpoint's names): matrices that are multiplied
//! with the same input live side by side in one tensor, so that one product computes them all.

use hadal_base::name_key;
use hadal_base::{Purpose, Rng};
use hadal_ops::linear::PackedWeight;
use hadal_ops::{Acc, Cx, DType, Tensor};

/// What a parameter is; decides initialisation and weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A weight matrix or an embedding table: normal initialisation, decays.
    Matrix,
    /// A normalisation gain: ones, does not decay.
    Norm,
    /// A router's selection bias (`e_score_correction_bias`): zeros, no gradient, moved by the balance rule only.
    Bias,
}

/// A named slice of a parameter: consecutive elements of its master tensor.
#[derive(Clone, Debug)]
pub struct Part {
    /// Name in a Hugging Face checkpoint.
    pub name: String,
    /// Other names under which the checkpoint repeats the same tensor (MTP's copies of embedding and head).
    pub aliases: Vec<String>,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// First element in the master tensor.
    pub start: usize,
}

impl Part {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Its elements in the master tensor.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len()
    }
}

/// One master tensor, its parts, and its packed forms if it is multiplied with.
pub struct Param {
    /// f32 master weights.
    pub value: Tensor,
    /// Named slices, in order, covering the tensor.
    pub parts: Vec<Part>,
    /// Initialisation and decay.
    pub kind: Kind,
    /// Compute-format forms for the linear products.
    pub packed: Option<PackedWeight>,
    /// Number of this parameter in visiting order: its place in [`Grads`] and in the optimiser's state.
    pub slot: usize,
}

impl Param {
    /// Refreshes the packed forms from the master weights.
    pub fn repack(&mut self, cx: &Cx) {
        if let Some(packed) = &mut self.packed {
            packed.pack(cx, &self.value);
        }
    }

    /// The packed forms of a weight that is multiplied with.
    pub fn weight(&self) -> &PackedWeight {
        self.packed.as_ref().expect("parameter without packed form used in a product")
    }

    /// Whether the optimiser updates it.
    pub fn trainable(&self) -> bool {
        self.kind != Kind::Bias
    }

    /// Whether weight decay applies (matrices only, report 4.2).
    pub fn decays(&self) -> bool {
        self.kind == Kind::Matrix
    }

    /// Fills the master weights: normal(0, std) for matrices, ones for norms, zeros for biases. A value depends on
    /// seed, part name and index only.
    pub fn init(&mut self, cx: &Cx, seed: u64, std: f64) {
        const BLOCK: usize = 1 << 14;
        match self.kind {
            Kind::Norm => self.value.f32_mut().fill(1.0),
            Kind::Bias => self.value.f32_mut().fill(0.0),
            Kind::Matrix => {
                for part in &self.parts {
                    let rng = Rng::new(seed, Purpose::Init, name_key(&part.name));
                    let values = &mut self.value.f32_mut()[part.range()];
                    let len = values.len();
                    let out = hadal_ops::Chunks::new(values, BLOCK);
                    cx.threads().each(len.div_ceil(BLOCK), |b| {
                        for (i, v) in out.take(b).iter_mut().enumerate() {
                            *v = (rng.normal((b * BLOCK + i) as u64) * std) as f32;
                        }
                    });
                }
            }
        }
    }
}

/// The gradients of one step, one f32 tensor for each trainable parameter.
///
/// The first contribution of a step overwrites and later ones add, so nothing is cleared in between.
pub struct Grads {
    slots: Vec<Option<Slot>>,
}

struct Slot {
    grad: Tensor,
    fresh: bool,
}

impl Grads {
    /// Gradients for every trainable parameter that `visit` shows, in slot order.
    pub fn new<'a>(cx: &Cx, params: impl Iterator<Item = &'a Param>) -> Self {
        let slots = params
            .map(|p| p.trainable().then(|| Slot { grad: cx.empty(p.value.shape(), DType::F32), fresh: true }))
            .collect();
        Self { slots }
    }

    /// Where the gradient of `param` goes, and whether this contribution is the first of the step.
    pub fn target(&mut self, param: &Param) -> (&mut Tensor, Acc) {
        let slot = self.slots[param.slot].as_mut().expect("gradient of a parameter that has none");
        let acc = if slot.fresh { Acc::Write } else { Acc::Add };
        slot.fresh = false;
        (&mut slot.grad, acc)
    }

    /// Zeroes what no contribution reached (a loss that was switched off).
    pub fn finish(&mut self) {
        for slot in self.slots.iter_mut().flatten().filter(|s| s.fresh) {
            slot.grad.f32_mut().fill(0.0);
            slot.fresh = false;
        }
    }

    /// Starts a new step: the next contributions overwrite.
    pub fn restart(&mut self) {
        self.slots.iter_mut().flatten().for_each(|s| s.fresh = true);
    }

    /// The gradient of slot `i`; none for a parameter that is not trained.
    pub fn get(&self, i: usize) -> Option<&Tensor> {
        self.slots[i].as_ref().map(|s| &s.grad)
    }

    /// All gradients in slot order.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.slots.iter().flatten().map(|s| &s.grad)
    }
}
