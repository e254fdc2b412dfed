//! Passes of a whole model that keep nothing for backward: losses, logits, and the head's inputs.

use crate::batch::{Input, Targets};
use crate::model::{Model, Observer, Probe, show};
use crate::pass::Pass;
use hadal_ops::head;
use hadal_ops::{Acc, Cx, DType, Tensor, elementwise};

impl Model {
    /// Losses per token in nats (0 without a target), f32 `[T]`, and those of each MTP module if asked for. Nothing is
    /// kept for a backward pass.
    pub fn losses(
        &self,
        cx: &Cx,
        input: &Input,
        replay: Option<&[Tensor]>,
        with_mtp: bool,
        mut observer: Option<Observer<'_>>,
    ) -> (Tensor, Vec<Tensor>) {
        let (h, pass) = self.hidden(cx, input, replay, &mut observer);
        let loss = |h: &Tensor, targets: &Targets| {
            let mut losses = cx.empty(&[h.rows()], DType::F32);
            if self.head().stored().only_runs() {
                let product =
                    |h: &Tensor, z: &mut Tensor| self.head().stored().forward(cx, h.into(), None, z.into(), Acc::Write);
                head::losses_by(cx, h, self.config.vocab_size, &targets.ids, &mut losses, &product);
            } else {
                head::loss(cx, h, self.head().weight(), &targets.ids, 0.0, None, &mut losses, None, None);
            }
            losses
        };
        let main = loss(&h, &input.targets);
        let mut mtp = Vec::new();
        if with_mtp {
            let mut each = |k: usize, z: &Tensor| mtp.push(loss(z, &input.mtp[k].targets));
            self.modules(cx, &h, input, &pass, (&mut Vec::new(), false), &mut observer, &mut each);
        }
        (main, mtp)
    }

    /// The main model's output after its final norm, `[T, D]` in the compute format.
    pub fn head_inputs(&self, cx: &Cx, input: &Input) -> Tensor {
        self.hidden(cx, input, None, &mut None).0
    }

    fn hidden<'a>(
        &'a self,
        cx: &Cx,
        input: &'a Input,
        replay: Option<&'a [Tensor]>,
        observer: &mut Option<Observer<'_>>,
    ) -> (Tensor, Pass<'a>) {
        let pass = self.pass(input, None, replay);
        let x = self.trunk(cx, &input.ids, &pass, None, None, observer);
        let (h, _) = self.final_norm(cx, &x);
        show(observer, Probe::Final(&h));
        (h, pass)
    }

    /// Logits f32 `[T, V]`, and those of each MTP module `[R, V]`.
    pub fn logits(
        &self,
        cx: &Cx,
        input: &Input,
        replay: Option<&[Tensor]>,
        mut observer: Option<Observer<'_>>,
    ) -> (Tensor, Vec<Tensor>) {
        let (h, pass) = self.hidden(cx, input, replay, &mut observer);
        let logits = |h: &Tensor| self.project(cx, h);
        let main = logits(&h);
        let mut mtp = Vec::new();
        let mut each = |_, z: &Tensor| mtp.push(logits(z));
        self.modules(cx, &h, input, &pass, (&mut Vec::new(), false), &mut observer, &mut each);
        (main, mtp)
    }

    /// Logits f32 `[T, V]` for head inputs `h_td`.
    pub fn project(&self, cx: &Cx, h: &Tensor) -> Tensor {
        let mut out = cx.empty(&[h.rows(), self.config.vocab_size], DType::F32);
        self.head().stored().forward(cx, h.into(), None, (&mut out).into(), Acc::Write);
        out
    }

    /// Logits f32 `[rows, V]` for these rows of the head inputs `h_td`.
    pub fn project_rows(&self, cx: &Cx, h: &Tensor, rows: &[i32]) -> Tensor {
        let mut inputs = cx.empty(&[rows.len(), h.cols()], h.dtype());
        elementwise::gather_rows(cx, h, &cx.indices(&[rows.len()], rows), &mut inputs);
        self.project(cx, &inputs)
    }
}
