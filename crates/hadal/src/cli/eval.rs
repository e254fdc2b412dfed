//! Options of the commands about tasks and text to evaluate.

use super::run::temperature;
use super::{FieldArgs, ModelArgs, at_least_one, share};
use clap::{Args, Subcommand};
use hadal_tasks::Options;
use hadal_tasks::evaluate::Settings;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tasks, or text. A task is a built-in name (see `hadal task list`) or a task file, which ends in .yaml or .yml.
    /// Everything else is a file or folder of text (.txt, .md, source code, .jsonl). Text whose path looks like a task
    /// is named with its folder, as in ./arc
    #[arg(required = true, value_name = "TASK|TEXT")]
    pub(crate) what: Vec<PathBuf>,
    /// Compare with this model. On tasks: the difference of each figure, with an interval from the same questions. On
    /// text: perplexity of both, KL divergence of the predictions, and how often the most likely token is the same. There
    /// its weights are stored in the format of the computation, unless `hadal quantize` packed them. To measure a storage
    /// format, name the same checkpoint
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<PathBuf>,
    /// Print JSON as the last line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) tasks: TaskEvalArgs,
    #[command(flatten)]
    pub(crate) text: TextEvalArgs,
}

/// Options for text.
#[derive(Args)]
#[command(next_help_heading = "Options for text")]
pub(crate) struct TextEvalArgs {
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Tokens per window [default: the sequence length that the model was trained on]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) window: Option<usize>,
    /// Largest number of tokens to evaluate (0: all of the text)
    #[arg(long, default_value_t = 0)]
    pub(crate) tokens: usize,
    /// Also write the loss at each place in the window to this folder, as a picture and as JSON lines
    #[arg(long, value_name = "DIR")]
    pub(crate) by_position: Option<PathBuf>,
}

/// Options for tasks.
#[derive(Args)]
#[command(next_help_heading = "Options for tasks")]
pub(crate) struct TaskEvalArgs {
    #[command(flatten)]
    pub(crate) file: TaskFileArgs,
    /// Ask only this number of questions, from the first one on
    #[arg(long, value_parser = at_least_one)]
    pub(crate) limit: Option<usize>,
    /// Answers to each question. With several there are avg@k, pass@k and maj@k; ask for a temperature as well [default:
    /// the number in the task's file]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) repeats: Option<usize>,
    /// Divide the logits by this number; 0 always takes the most likely token [default: the task's]
    #[arg(long, value_parser = temperature)]
    pub(crate) temperature: Option<f32>,
    /// Keep the most likely tokens up to this total probability [default: the task's]
    #[arg(long, value_parser = share)]
    pub(crate) top_p: Option<f32>,
    /// Keep only this many of the most likely tokens [default: the task's]
    #[arg(long)]
    pub(crate) top_k: Option<usize>,
    /// Largest number of new tokens of an answer [default: the task's]
    #[arg(long, short = 'n', value_parser = at_least_one)]
    pub(crate) max_new: Option<usize>,
    /// Write prompts as chats, with the model's chat template. Examples are messages of their own
    #[arg(long)]
    pub(crate) apply_chat_template: bool,
    /// Whether examples in a chat are messages of their own. Otherwise they stand in the message of the question
    #[arg(long, action = clap::ArgAction::Set, value_name = "true|false", default_value_t = true, requires = "apply_chat_template")]
    pub(crate) fewshot_as_multiturn: bool,
    /// Do not begin prompts with the token that begins texts
    #[arg(long)]
    pub(crate) no_begin_token: bool,
    /// Sequences that run at the same time. The results do not depend on it
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub(crate) batch: usize,
    /// Also write every question with its answers and scores as JSON lines, as lm-evaluation-harness does
    #[arg(long)]
    pub(crate) log_samples: bool,
    /// Folder for results, pages and answers. Answers that it has are not asked again [default: eval/ in the model's
    /// folder, or here for a model of a repository]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

impl TextEvalArgs {
    /// The name of an option that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let all = [
            ("text-field", self.field.text_field != "text"),
            ("window", self.window.is_some()),
            ("tokens", self.tokens != 0),
            ("by-position", self.by_position.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

impl TaskEvalArgs {
    /// The name of an option that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let all = [
            ("data", self.file.data.is_some()),
            ("num-fewshot", self.file.num_fewshot.is_some()),
            ("seed", self.file.seed.is_some()),
            ("limit", self.limit.is_some()),
            ("repeats", self.repeats.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top-p", self.top_p.is_some()),
            ("top-k", self.top_k.is_some()),
            ("max-new", self.max_new.is_some()),
            ("apply-chat-template", self.apply_chat_template),
            ("no-begin-token", self.no_begin_token),
            ("log-samples", self.log_samples),
            ("out", self.out.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// What replaces settings of the tasks' files.
    pub(crate) fn options(&self) -> Options {
        Options {
            repeats: self.repeats,
            max_tokens: self.max_new,
            temperature: self.temperature.map(f64::from),
            top_p: self.top_p.map(f64::from),
            top_k: self.top_k,
            ..self.file.options()
        }
    }

    /// How the tasks are evaluated.
    pub(crate) fn settings(&self) -> Settings {
        let seed = self.file.seed.unwrap_or(0);
        Settings { limit: self.limit, begin: !self.no_begin_token, seed, sequences: self.batch }
    }
}

impl TaskFileArgs {
    /// What replaces settings of the task's file.
    pub(crate) fn options(&self) -> Options {
        Options { data: self.data.clone(), num_fewshot: self.num_fewshot, seed: self.seed, ..Options::default() }
    }
}

/// What changes the questions of a task.
#[derive(Args)]
pub(crate) struct TaskFileArgs {
    /// Folder in which the data files of tasks are looked for, before the task file's own folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Examples before each question [default: the number in the task's file]
    #[arg(long)]
    pub(crate) num_fewshot: Option<usize>,
    /// The seed of sampling and of questions that are made [default: 0, and the file's for questions]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Args)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    pub(crate) command: TaskCommand,
}

#[derive(Subcommand)]
pub(crate) enum TaskCommand {
    /// List the built-in tasks and the data files that they need
    List,
    /// Print the file of a built-in task, as a beginning for your own
    Show {
        /// The task's name
        name: String,
    },
    /// Write questions of a task with their right answers as conversations, for `hadal sft`
    Chats {
        /// A task file, or the name of a built-in task
        task: PathBuf,
        /// The split of the task. Of a synthetic family, no question of `test` is in another split
        #[arg(long, default_value = "train")]
        split: String,
        /// The number of questions of a synthetic family [default: the number in the task's file]
        #[arg(long, value_parser = at_least_one)]
        count: Option<usize>,
        /// The seed of questions that are made [default: the file's]
        #[arg(long)]
        seed: Option<u64>,
        /// Folder in which the data files of tasks are looked for, before the task file's own folder
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// The file to write, with a conversation per line in the form of OpenAI's messages
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check a task file, and show what a model would be asked first
    Check {
        /// A task file, or the name of a built-in task
        file: PathBuf,
        #[command(flatten)]
        options: TaskFileArgs,
    },
}
