//! `POST /v1/completions`: continues prompts, fills gaps, and tells log-probabilities of given text.

use crate::answer::{Answer, respond};
use crate::app::{App, Caller, unix_seconds};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::prompts::{self, Prompt};
use crate::sampling::{self, Asked, MOST_LOGPROBS};
use crate::tokens::{Line, Placed, Sum, legacy, reason};
use crate::worker::Told;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use hadal_infer::{Event, Loaded, Request, Score, ScoredToken, Stop, TextOptions};
use serde_json::{Value, json};
use std::sync::Arc;

/// New tokens, if nothing else is asked for.
const NEW_TOKENS: usize = 16;
/// Most log-probabilities of given text in an answer. Each takes some hundred bytes.
const MOST_ECHOED: usize = 1 << 20;

pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    app.check_open()?;
    let wanted = app.read(&headers, body, |body| Wanted::read(&app, body)).await?;
    let held = app.admit(&caller, wanted.prompts.len() * wanted.asked.samples)?;
    let name = format!("cmpl-{}", app.request_name());
    if app.options.log_prompts {
        let prompts: Vec<String> =
            wanted.prompts.iter().map(|p| app.loaded.tokenizer.decode_with_special(&p.ids)).collect();
        tracing::info!(request = name, ?prompts, "prompts");
    }
    let constraint = match wanted.asked.grammar.clone() {
        Some(grammar) => Some(app.constraint(grammar).await?),
        None => None,
    };
    let asked = &wanted.asked;
    let request = Request {
        params: asked.params,
        adjust: asked.adjust.clone(),
        samples: asked.samples,
        max_new: asked.max_new.unwrap_or(NEW_TOKENS),
        stop: asked.stop_tokens.clone(),
        logprobs: wanted.logprobs,
        text: Some(TextOptions {
            stop: asked.stop.clone(),
            include_stop: asked.include_stop,
            show_special: asked.show_special,
            ..app.loaded.text()
        }),
        constraint,
        score: wanted.logprobs.filter(|_| wanted.echo).map(|top| Score { from: 1, top }),
        reuse: asked.reuse,
        ..Request::default()
    };
    let requests = wanted.prompts.iter().map(|p| Request { prompt: p.ids.clone(), ..request.clone() }).collect();
    let job = app.submit(name.clone(), &caller, requests, held, "prompt").await?;
    let (stream, answer) = (wanted.asked.stream, Completion::new(&app, name, wanted));
    respond(app, job, answer, stream).await
}

/// What was asked.
struct Wanted {
    prompts: Vec<Prompt>,
    asked: Asked,
    echo: bool,
    logprobs: Option<usize>,
}

impl Wanted {
    fn read(app: &App, body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        app.check_model(fields.text("model")?.as_deref())?;
        let suffix = fields.text("suffix")?;
        let prompts = prompts::take(&mut fields, app, suffix.as_deref())?;
        let echo = fields.flag("echo")?;
        if echo && suffix.is_some() {
            return Err(fields.error("echo", "`echo` and `suffix` do not go together: leave one out"));
        }
        let logprobs = fields.whole("logprobs", 0..=MOST_LOGPROBS)?.map(|top| top as usize);
        let limit = sampling::take_limit(&mut fields, &["max_tokens"])?;
        let asked = Asked { max_new: limit, ..sampling::take(&mut fields, &app.loaded)? };
        if let Some(top) = logprobs.filter(|_| echo) {
            let echoed = prompts.iter().map(|prompt| prompt.ids.len()).sum::<usize>() * asked.samples * (1 + top);
            if echoed > MOST_ECHOED {
                let message = format!(
                    "the echoed prompts have {echoed} log-probabilities, and {MOST_ECHOED} are told at most: \
                     send fewer or shorter prompts, or a smaller `logprobs` or `n`"
                );
                return Err(fields.error("logprobs", message));
            }
        }
        fields.finish()?;
        Ok(Self { prompts, asked, echo, logprobs })
    }
}

/// The answer.
struct Completion {
    loaded: Arc<Loaded>,
    name: String,
    created: u64,
    model: String,
    wanted: Wanted,
    /// By prompt: its log-probabilities, and events that wait for them. Empty once they are complete, or if nobody wants
    /// them.
    scored: Vec<Vec<ScoredToken>>,
    waiting: Vec<Option<Vec<Told>>>,
    /// By choice.
    lines: Vec<Line>,
    choices: Vec<Part>,
    left: usize,
    sum: Sum,
}

/// A part of a choice.
#[derive(Default)]
struct Part {
    choice: usize,
    text: String,
    placed: Vec<Placed>,
    end: Option<Stop>,
}

impl Completion {
    fn new(app: &App, name: String, wanted: Wanted) -> Self {
        let choices = wanted.prompts.len() * wanted.asked.samples;
        let is_scored = |prompt: &Prompt| wanted.echo && wanted.logprobs.is_some() && prompt.ids.len() > 1;
        Self {
            loaded: Arc::clone(&app.loaded),
            name,
            created: unix_seconds(),
            model: app.options.name.clone(),
            scored: wanted.prompts.iter().map(|_| Vec::new()).collect(),
            waiting: wanted.prompts.iter().map(|prompt| is_scored(prompt).then(Vec::new)).collect(),
            lines: (0..choices).map(|_| Line::default()).collect(),
            choices: (0..choices).map(|choice| Part { choice, ..Part::default() }).collect(),
            left: choices,
            sum: Sum::default(),
            wanted,
        }
    }

    /// The prompt as the first part of its choices.
    fn echo(&mut self, prompt: usize) -> Vec<Part> {
        let (samples, given) = (self.wanted.asked.samples, &self.wanted.prompts[prompt]);
        let (text, places) = given.spell(&self.loaded, self.wanted.asked.show_special);
        let chars = text.chars().count();
        let scored = std::mem::take(&mut self.scored[prompt]);
        let mut parts = Vec::with_capacity(samples);
        for choice in prompt * samples..(prompt + 1) * samples {
            let first = [(None, Vec::new())].into_iter();
            let scores = first.chain(scored.iter().map(|s| (Some(s.logprob), s.top.clone())));
            let placed = given.ids.iter().zip(&places).zip(scores);
            let placed = placed.map(|((token, at), (logprob, top))| Placed { token: *token, logprob, top, at: *at });
            let placed = if self.wanted.logprobs.is_some() { placed.collect() } else { Vec::new() };
            parts.push(Part { choice, text: text.clone(), placed, end: None });
            self.lines[choice] = Line::after(chars);
        }
        parts
    }

    /// What an event adds, once the prompt is complete.
    fn say(&mut self, Told { prompt, event }: Told) -> Option<Part> {
        let choice = |sample: usize| prompt * self.wanted.asked.samples + sample;
        match event {
            Event::Token { sample, token, .. } => {
                if self.wanted.logprobs.is_some() {
                    self.lines[choice(sample)].push(token);
                }
                None
            }
            Event::Text { sample, piece, .. } => {
                let choice = choice(sample);
                let placed = self.lines[choice].place(&piece);
                let says = !(piece.text.is_empty() && placed.is_empty());
                says.then_some(Part { choice, text: piece.text, placed, end: None })
            }
            Event::Finished { sample, stop, end, usage, .. } => {
                self.sum.add(sample, &usage);
                self.left -= 1;
                let choice = choice(sample);
                // The token that ended it has a log-probability as well.
                let at = self.lines[choice].chars;
                let last = end.map(|end| Placed { token: end.token, logprob: end.logprob, top: end.top, at });
                Some(Part { choice, text: String::new(), placed: last.into_iter().collect(), end: Some(stop) })
            }
            Event::Scored { .. } => None,
        }
    }

    fn choice(&self, part: &Part) -> Value {
        let logprobs = self.wanted.logprobs.map(|_| legacy(&self.loaded.tokenizer, &part.placed));
        let end = part.end.map(|stop| reason(stop, &self.wanted.asked.stop));
        let (finish, stop) = end.map_or((Value::Null, Value::Null), |(finish, stop)| (finish.into(), stop));
        json!({
            "index": part.choice, "text": part.text, "logprobs": logprobs, "finish_reason": finish, "stop_reason": stop,
        })
    }

    fn around(&self, choices: Vec<Value>) -> Value {
        let Self { name, created, model, .. } = self;
        json!({"id": name, "object": "text_completion", "created": created, "model": model, "choices": choices})
    }
}

impl Answer for Completion {
    type Part = Part;

    fn begin(&mut self) -> Vec<Part> {
        if !self.wanted.echo {
            return Vec::new();
        }
        let ready: Vec<usize> = (0..self.waiting.len()).filter(|prompt| self.waiting[*prompt].is_none()).collect();
        ready.into_iter().flat_map(|prompt| self.echo(prompt)).collect()
    }

    fn hear(&mut self, told: Told) -> Vec<Part> {
        let prompt = told.prompt;
        let Some(waiting) = &mut self.waiting[prompt] else { return self.say(told).into_iter().collect() };
        let Event::Scored { tokens, .. } = told.event else {
            waiting.push(told);
            return Vec::new();
        };
        self.scored[prompt].extend(tokens);
        if self.scored[prompt].len() + 1 < self.wanted.prompts[prompt].ids.len() {
            return Vec::new();
        }
        let waiting = self.waiting[prompt].take().unwrap_or_default();
        let mut parts = self.echo(prompt);
        parts.extend(waiting.into_iter().filter_map(|told| self.say(told)));
        parts
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn chunk(&self, part: Part) -> Value {
        let mut chunk = self.around(vec![self.choice(&part)]);
        if self.wanted.asked.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn usage_chunk(&self) -> Option<Value> {
        let mut chunk = self.around(Vec::new());
        chunk["usage"] = self.sum.to_json();
        self.wanted.asked.include_usage.then_some(chunk)
    }

    fn keep(&mut self, part: Part) {
        let whole = &mut self.choices[part.choice];
        whole.text += &part.text;
        whole.placed.extend(part.placed);
        whole.end = whole.end.or(part.end);
    }

    fn whole(&mut self) -> Value {
        let choices = self.choices.iter().map(|part| self.choice(part)).collect();
        let mut whole = self.around(choices);
        whole["usage"] = self.sum.to_json();
        whole
    }
}
