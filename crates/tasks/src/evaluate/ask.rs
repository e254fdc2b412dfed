//! From what a task asks to requests of the engine, in tokens.
//!
//! Tokens are those of lm-evaluation-harness 0.4.13. Context and continuation are encoded together, and the tokens behind
//! those of the context alone are the continuation's. White space at the end of a context belongs to the continuation. A
//! long text is scored in windows. The first one begins with a token that begins texts, and each other one with the last
//! token before it. The last window is as long as the others, so what is left over has more before it. A prompt that is
//! too long for the model loses its beginning.

use hadal_data::Tokenizer;
use hadal_infer::{Loaded, Request as EngineRequest, Reuse, SampleParams, Score, TextOptions};

use crate::filter::is_space;
use crate::task::{Generation, Request};

/// What the engine is asked for one request of a task.
#[derive(Debug)]
pub(super) struct Ask {
    /// The document's number.
    pub(super) document: usize,
    /// The number of the request among those of the document.
    pub(super) request: usize,
    /// Stands for everything that the answer depends on, except for the model.
    pub(super) key: u64,
    /// What the answer will be.
    pub(super) kind: Kind,
    /// The engine's requests. Only long texts have several.
    pub(super) parts: Vec<EngineRequest>,
    /// Whether a prompt lost its beginning.
    pub(super) cut: bool,
}

/// What an answer will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many texts. Without sampling they are all the same, and one is generated.
    Texts(usize),
    /// The log-likelihood of a continuation.
    Likelihood,
    /// The log-likelihood of a text.
    Rolling,
}

/// Makes requests of the engine.
pub(super) struct Asker<'a> {
    tokenizer: &'a Tokenizer,
    text: TextOptions,
    stop: Vec<u32>,
    /// The text of the token that ends texts.
    end: Option<String>,
    /// The token that prompts begin with.
    begin: Option<u32>,
    /// The token before a text that has nothing before it.
    prefix: Option<u32>,
    longest: usize,
    seed: u64,
    /// The last context and its tokens: choices of a question share it.
    last: (String, Vec<u32>),
}

impl<'a> Asker<'a> {
    /// `begin`: whether prompts begin with the token that begins texts, if there is one.
    pub(super) fn new(loaded: &'a Loaded, begin: bool, seed: u64) -> Self {
        let special = loaded.tokenizer.special();
        let first_stop = loaded.stop_tokens().first().copied();
        Self {
            tokenizer: &loaded.tokenizer,
            text: loaded.text(),
            stop: loaded.stop_tokens(),
            end: special.eos.map(|eos| loaded.tokenizer.decode_with_special(&[eos])).filter(|end| !end.is_empty()),
            begin: special.bos.filter(|_| begin),
            prefix: special.bos.or(first_stop),
            longest: loaded.model.config.max_position_embeddings,
            seed,
            last: Default::default(),
        }
    }

    /// What to ask the engine for a request of a task. `repeats` is the number of texts.
    pub(super) fn ask(&mut self, request: &Request, at: (usize, usize), repeats: usize) -> Result<Ask, String> {
        let (kind, parts, cut) = match request {
            Request::Generate { prompt, generation } => self.generate(prompt, generation, at, repeats)?,
            Request::Likelihood { context, continuation } => self.likelihood(context, continuation)?,
            Request::Rolling { text } => self.rolling(text)?,
        };
        let key = parts.iter().fold(0, |key, part| hadal_base::mix(key ^ key_of(part)));
        Ok(Ask { document: at.0, request: at.1, key, kind, parts, cut })
    }

    /// The tokens of a text at the beginning of a prompt.
    fn encode(&self, text: &str) -> Vec<u32> {
        let ids = self.tokenizer.encode_with_special(text);
        let begin = self.begin.filter(|begin| ids.first() != Some(begin));
        begin.into_iter().chain(ids).collect()
    }

    fn generate(
        &self,
        prompt: &str,
        generation: &Generation,
        at: (usize, usize),
        repeats: usize,
    ) -> Result<(Kind, Vec<EngineRequest>, bool), String> {
        let max_new = generation.max_tokens.max(1);
        let room = self.longest.saturating_sub(max_new);
        if room == 0 {
            return Err(format!(
                "asks for {max_new} new tokens, but the model's context has {} for prompt and answer together; give a \
                 smaller --max-new",
                self.longest
            ));
        }
        let mut ids = self.encode(prompt);
        if ids.is_empty() {
            ids.extend(self.prefix);
        }
        let cut = ids.len().saturating_sub(room);
        ids.drain(..cut);
        let greedy = generation.temperature == 0.0;
        let params = SampleParams {
            temperature: generation.temperature as f32,
            top_k: generation.top_k.unwrap_or(0),
            top_p: generation.top_p.unwrap_or(1.0) as f32,
            seed: self.seed,
            request: hadal_base::mix(at.0 as u64 ^ ((at.1 as u64) << 32)),
            ..SampleParams::default()
        };
        let until = generation.until.iter().chain(&self.end).filter(|text| !text.is_empty()).cloned().collect();
        let request = EngineRequest {
            prompt: ids,
            params: if greedy { SampleParams::default() } else { params },
            samples: if greedy { 1 } else { repeats },
            max_new,
            stop: self.stop.clone(),
            text: Some(TextOptions { stop: until, ..self.text.clone() }),
            reuse: Reuse::Given,
            ..EngineRequest::default()
        };
        Ok((Kind::Texts(repeats), vec![request], cut > 0))
    }

    fn likelihood(&mut self, context: &str, continuation: &str) -> Result<(Kind, Vec<EngineRequest>, bool), String> {
        let (ids, from) = self.pair(context, continuation)?;
        let scored = ids.len() - from;
        if scored == 0 {
            return Err(format!("the continuation {continuation:?} has no token of its own"));
        }
        if scored > self.longest {
            return Err(format!(
                "a continuation has {scored} tokens, which is more than the model's context of {}",
                self.longest
            ));
        }
        let cut = ids.len().saturating_sub(self.longest + 1);
        Ok((Kind::Likelihood, vec![score(ids[cut..].to_vec(), from - cut)], cut > 0))
    }

    /// The tokens of context and continuation, and where those of the continuation begin.
    fn pair(&mut self, context: &str, continuation: &str) -> Result<(Vec<u32>, usize), String> {
        if context.is_empty() {
            let ids = self.tokenizer.encode_with_special(continuation);
            let prefix = self.prefix.ok_or("the tokenizer has no token that could stand before a continuation")?;
            let own = ids.first() == Some(&prefix);
            let ids = if own { ids } else { [vec![prefix], ids].concat() };
            return Ok((ids, 1));
        }
        let head = context.trim_end_matches(is_space);
        if self.last.0 != head {
            self.last = (head.to_owned(), self.encode(head));
        }
        let whole = self.encode(&format!("{context}{continuation}"));
        let from = self.last.1.len().min(whole.len());
        // The tokens of the context count, where the whole is cut in another way.
        let ids: Vec<u32> = self.last.1[..from].iter().chain(&whole[from..]).copied().collect();
        if from == 0 {
            return Err("nothing stands before a continuation but white space".to_owned());
        }
        Ok((ids, from))
    }

    fn rolling(&self, text: &str) -> Result<(Kind, Vec<EngineRequest>, bool), String> {
        let ids = self.tokenizer.encode_with_special(text);
        let prefix = self.prefix.ok_or("the tokenizer has no token that could stand before a text")?;
        let all = [vec![prefix], ids].concat();
        // Token `next` of `all` is the first one that is not scored yet.
        let (mut next, mut parts) = (1, Vec::new());
        while next < all.len() {
            let end = (next + self.longest).min(all.len());
            let begin = end.saturating_sub(self.longest + 1);
            parts.push(score(all[begin..end].to_vec(), next - begin));
            next = end;
        }
        Ok((Kind::Rolling, parts, false))
    }
}

/// A request for log-probabilities from token `from` on.
fn score(prompt: Vec<u32>, from: usize) -> EngineRequest {
    EngineRequest { prompt, score: Some(Score { from, top: 0 }), reuse: Reuse::Given, ..EngineRequest::default() }
}

/// Stands for everything in a request that its answer depends on.
fn key_of(request: &EngineRequest) -> u64 {
    let mut bytes: Vec<u8> = Vec::new();
    let mut number = |n: u64| bytes.extend_from_slice(&n.to_le_bytes());
    let params = &request.params;
    number(u64::from(params.temperature.to_bits()));
    number(params.top_k as u64);
    number(u64::from(params.top_p.to_bits()));
    number(params.seed);
    number(params.request);
    number(request.samples as u64);
    number(request.max_new as u64);
    number(request.score.map_or(u64::MAX, |score| score.from as u64));
    let stops = request.text.as_ref().map_or(&[][..], |text| &text.stop);
    for tokens in [&request.prompt, &request.stop] {
        number(tokens.len() as u64);
        tokens.iter().for_each(|token| number(u64::from(*token)));
    }
    for stop in stops {
        number(hadal_base::checksum(stop.as_bytes()));
    }
    hadal_base::checksum(&bytes)
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
