//! Drafts of the first MTP module in passes that continue sequences (report 2.2 and 5.4.3).
//!
//! The module's row of token `j` joins the main model's output of token `j - 1` with token `j`, and predicts token `j +
//! 1`. Its latent is stored in the page of token `j`. So it depends on no token after those of its page, like the
//! latents of the main model, and sequences that begin with the same tokens can share it.
//!
//! The module is one block, so its latents depend on inputs alone. A row whose draft nobody wants needs no attention
//! and no feed-forward layer. [`Model::keep_draft_latents`] computes its latent alone. The main model's outputs are in
//! the pool, so that this can be done at any later time, and only if drafts are wanted.

use crate::cached::Cache;
use crate::model::Model;
use hadal_ops::{Cx, Tensor};

impl Model {
    /// Runs the first MTP module on the rows of [`Rows::set_draft`](crate::Rows::set_draft) and stores their latents.
    /// Returns the head's inputs `[T, D]`: [`Model::project`] turns them into logits of the token after each row's own.
    ///
    /// # Panics
    /// If the model has no module, or the pool is not for drafts.
    pub fn draft(&self, cx: &Cx, cache: &mut Cache<'_>) -> Tensor {
        let (rows, module) = (cache.rows, &self.mtp[0]);
        let (outputs, layer) = cache.module();
        let (previous, pass) = (&rows.previous, rows.pass(&self.rope));
        let (z, saved) = module.forward(cx, &self.embed, outputs, previous, &rows.ids, &pass, Some(layer), false);
        cache.loads.count(module.block.moe_index, &saved.block);
        z
    }

    /// Stores the latents of such rows and computes nothing else.
    ///
    /// # Panics
    /// As [`Model::draft`].
    pub fn keep_draft_latents(&self, cx: &Cx, cache: &mut Cache<'_>) {
        let rows = cache.rows;
        let (outputs, layer) = cache.module();
        self.mtp[0].keep_latents(cx, &self.embed, outputs, &rows.previous, &rows.ids, &rows.pass(&self.rope), layer);
    }
}
