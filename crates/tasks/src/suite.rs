//! Tasks by name: files, groups of tasks, and the built-in benchmarks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Result, TaskError};
use crate::file::{self, Entry, Node, Yaml};
use crate::stats;
use crate::task::keys::Keys;
use crate::task::{Chat, Options, Task, Total};

/// The built-in benchmarks: their names and files.
pub const BUILT_IN: [(&str, &str); 13] = [
    ("gsm8k", include_str!("../benchmarks/gsm8k.yaml")),
    ("humaneval", include_str!("../benchmarks/humaneval.yaml")),
    ("math_boxed", include_str!("../benchmarks/math_boxed.yaml")),
    ("ifeval", include_str!("../benchmarks/ifeval.yaml")),
    ("mmlu", include_str!("../benchmarks/mmlu.yaml")),
    ("arc", include_str!("../benchmarks/arc.yaml")),
    ("hellaswag", include_str!("../benchmarks/hellaswag.yaml")),
    ("sums", include_str!("../benchmarks/sums.yaml")),
    ("countdown", include_str!("../benchmarks/countdown.yaml")),
    ("sorting", include_str!("../benchmarks/sorting.yaml")),
    ("edits", include_str!("../benchmarks/edits.yaml")),
    ("programs", include_str!("../benchmarks/programs.yaml")),
    ("needle", include_str!("../benchmarks/needle.yaml")),
];

/// The most files of a folder that are looked at for a name.
const MOST_FILES: usize = 2000;
/// The deepest nesting of groups.
const MAX_DEPTH: usize = 10;
/// The most tasks of a suite.
const MOST_TASKS: usize = 1000;

/// Tasks that were opened together.
pub struct Suite {
    /// The tasks, those of groups in their order.
    pub tasks: Vec<Task>,
    /// The groups, inner ones before outer ones.
    pub groups: Vec<Group>,
}

/// A group of tasks.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The names of its tasks, those of inner groups included.
    pub tasks: Vec<String>,
    metrics: Vec<GroupMetric>,
}

/// A metric whose mean over tasks is taken.
#[derive(Clone, Debug)]
struct GroupMetric {
    metric: String,
    filters: Option<Vec<String>>,
    weight_by_size: bool,
}

impl Suite {
    /// Opens a file with a task or a group, or a built-in benchmark.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        Self::open_all(&[path.to_owned()], options)
    }

    /// Opens several of them. A task that comes twice is there once.
    pub fn open_all(paths: &[PathBuf], options: &Options) -> Result<Self> {
        let mut suite = Self { tasks: Vec::new(), groups: Vec::new() };
        for path in paths {
            suite.add(&find(path)?, options, 0)?;
        }
        Ok(suite)
    }

    /// Writes all prompts as chats from now on.
    pub fn set_chat(&mut self, chat: &Chat) {
        self.tasks.iter_mut().for_each(|task| task.set_chat(chat.clone()));
    }

    /// Adds a task or group. Gives the names of its tasks.
    fn add(&mut self, node: &Node, options: &Options, depth: usize) -> Result<Vec<String>> {
        let mut keys = Keys::new(node, "")?;
        let Some(Node { yaml: Yaml::List(members), .. }) = keys.node("task")? else {
            return self.add_task(node, options);
        };
        if depth >= MAX_DEPTH {
            return Err(keys.wrong("task", "groups are nested too deep, or a group holds itself"));
        }
        let Some(group) = keys.text("group")? else {
            return Err(keys.wrong("group", "is missing; name the group of tasks"));
        };
        let metrics = group_metrics(&mut keys)?;
        keys.ignore(&["group_alias", "metadata", "tag", "task_list"]);
        // Other keys are settings of all tasks of the group.
        let structural = ["task", "group", "group_alias", "aggregate_metric_list", "metadata", "tag", "task_list"];
        let shared: Vec<Entry> =
            node.entries().iter().filter(|entry| !structural.contains(&entry.key.as_str())).cloned().collect();
        let mut tasks = Vec::new();
        for member in members {
            let member = member_node(member, &shared, &keys)?;
            tasks.extend(self.add(&member, options, depth + 1)?);
        }
        self.groups.push(Group { name: group, tasks: tasks.clone(), metrics });
        Ok(tasks)
    }
}

impl Suite {
    fn add_task(&mut self, node: &Node, options: &Options) -> Result<Vec<String>> {
        let task = Task::open(node, options)?;
        let name = task.name().to_owned();
        if self.tasks.len() >= MOST_TASKS {
            let problem = format!("more than {MOST_TASKS} tasks; evaluate fewer at a time");
            return Err(Keys::new(node, "")?.wrong("task", &problem));
        }
        if !self.tasks.iter().any(|other| other.name() == name) {
            self.tasks.push(task);
        }
        Ok(vec![name])
    }
}

/// What a member of a group stands for: a name, a name with settings of its own, or a task that is written out.
fn member_node(member: &Node, shared: &[Entry], keys: &Keys) -> Result<Node> {
    let (name, own): (Option<&str>, &[Entry]) = match &member.yaml {
        Yaml::Text(name) => (Some(name), &[]),
        Yaml::Map(entries) => {
            let text = |key: &str| match member.get(key).map(|node| &node.yaml) {
                Some(Yaml::Text(text)) => Some(text.as_str()),
                _ => None,
            };
            (text("task"), entries)
        }
        _ => return Err(keys.wrong("task", "a member of a group is a name or a mapping")),
    };
    let folder = member.place.file.parent().unwrap_or(Path::new(""));
    let found = name.and_then(|name| by_name(name, folder).transpose()).transpose()?;
    let written_out =
        member.get("dataset_path").is_some() || member.get("generator").is_some() || member.get("group").is_some();
    let mut node = match found {
        Some(found) => found,
        None if written_out => Node { yaml: Yaml::Map(Vec::new()), place: member.place.clone() },
        None => return Err(unknown(name.unwrap_or("?"))),
    };
    if let Yaml::Map(entries) = &mut node.yaml {
        let is_group = own.iter().chain(entries.iter()).any(|entry| entry.key == "group");
        if !is_group {
            file::override_with(entries, shared.to_vec());
        }
        file::override_with(entries, own.to_vec());
    }
    Ok(node)
}

/// Whether a word of a command line means a task: a built-in name, or a file that ends in `.yaml` or `.yml`.
pub fn is_task(word: &Path) -> bool {
    let built_in = word.to_str().is_some_and(|name| built_in_text(name).is_some());
    built_in || word.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

/// The file of a built-in benchmark.
pub fn built_in_text(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The task of a path or name.
fn find(path: &Path) -> Result<Node> {
    if is_task(path) && path.extension().is_some() || path.is_file() {
        return file::load(path);
    }
    let name = path.to_string_lossy();
    built_in(&name)?.ok_or_else(|| unknown(&name))
}

fn unknown(name: &str) -> TaskError {
    let known = BUILT_IN.map(|(name, _)| name).join(", ");
    TaskError::Unknown { name: name.to_owned(), known }
}

pub(crate) fn built_in(name: &str) -> Result<Option<Node>> {
    let Some(text) = built_in_text(name) else { return Ok(None) };
    let file: Arc<Path> = Arc::from(PathBuf::from(format!("built-in {name}")));
    file::parse(text, &file).map(Some)
}

/// The file of a folder whose task or group has a name, or a built-in benchmark.
fn by_name(name: &str, folder: &Path) -> Result<Option<Node>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let own = folder.join(format!("{name}.yaml"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort_by_key(|path| (*path != own, path.clone()));
    for path in files.into_iter().take(MOST_FILES) {
        // Other files of the folder may be anything. The one of this name must be right.
        let node = match file::load(&path) {
            Err(error) if path == own => return Err(error),
            Err(_) => continue,
            Ok(node) => node,
        };
        let is = |key: &str| matches!(node.get(key).map(|n| &n.yaml), Some(Yaml::Text(text)) if text == name);
        if is("task") || is("group") {
            return Ok(Some(node));
        }
    }
    built_in(name)
}

fn group_metrics(keys: &mut Keys) -> Result<Vec<GroupMetric>> {
    let Some(node) = keys.node("aggregate_metric_list")? else { return Ok(Vec::new()) };
    let items = match &node.yaml {
        Yaml::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let read = |item: &Node| {
        let mut keys = Keys::new(item, "aggregate_metric_list.")?;
        let Some(metric) = keys.text("metric")? else {
            return Err(keys.wrong("metric", "is missing; name the metric"));
        };
        let filters = keys.texts("filter_list")?;
        let weight_by_size = keys.bool("weight_by_size")?.unwrap_or(true);
        if keys.text("aggregation")?.is_some_and(|name| name != "mean") {
            return Err(keys.wrong("aggregation", "groups have `mean` only"));
        }
        keys.finish()?;
        Ok(GroupMetric { metric, filters, weight_by_size })
    };
    items.iter().map(read).collect()
}

impl Group {
    /// The group's totals, from those of its tasks. A mean that is weighted by sizes has the pooled standard error.
    pub fn totals(&self, tasks: &[(String, Vec<Total>)]) -> Vec<Total> {
        let of_tasks: Vec<&Vec<Total>> = self
            .tasks
            .iter()
            .filter_map(|name| tasks.iter().find(|(task, _)| task == name).map(|(_, totals)| totals))
            .collect();
        let mut totals = Vec::new();
        for metric in &self.metrics {
            let mut filters: Vec<String> = metric.filters.clone().unwrap_or_default();
            if metric.filters.is_none() {
                let all = of_tasks.iter().flat_map(|totals| totals.iter());
                filters = all.filter(|total| total.metric == metric.metric).map(|total| total.filter.clone()).collect();
                filters.sort();
                filters.dedup();
            }
            for filter in filters {
                let parts = of_tasks.iter().filter_map(|totals| {
                    totals.iter().find(|total| total.metric == metric.metric && total.filter == filter)
                });
                let parts: Vec<&Total> = parts.collect();
                totals.extend(metric.total(&filter, &parts));
            }
        }
        totals
    }
}

impl GroupMetric {
    fn total(&self, filter: &str, parts: &[&Total]) -> Option<Total> {
        let first = parts.first()?;
        let sizes: Vec<usize> = parts.iter().map(|part| part.documents).collect();
        let errors: Option<Vec<f64>> = parts.iter().map(|part| part.standard_error).collect();
        let weights: Vec<f64> = sizes.iter().map(|size| if self.weight_by_size { *size as f64 } else { 1.0 }).collect();
        let sum: f64 = parts.iter().zip(&weights).map(|(part, weight)| part.value * weight).sum();
        let standard_error = errors.map(|errors| {
            if self.weight_by_size {
                return stats::pooled_standard_error(&errors, &sizes);
            }
            errors.iter().map(|error| error * error).sum::<f64>().sqrt() / errors.len() as f64
        });
        Some(Total {
            metric: self.metric.clone(),
            filter: filter.to_owned(),
            value: sum / weights.iter().sum::<f64>(),
            standard_error,
            higher_is_better: first.higher_is_better,
            documents: sizes.iter().sum(),
        })
    }
}
