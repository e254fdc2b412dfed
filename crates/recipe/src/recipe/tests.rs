use super::*;
use crate::plan::Plan;

const MINIMAL: &str =
    "[model]\nconfig = \"small\"\n\n[schedule]\ntotal_tokens = \"20M\"\npeak_lr = 1e-3\n\n[data]\nseq_len = 512\n";

fn error(text: &str, set: &[&str]) -> String {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    match Recipe::parse("r.toml", text, &set).and_then(|r| Plan::new(&r, None)) {
        Ok(plan) => panic!("no error, but {plan:?}"),
        Err(e) => e.to_string(),
    }
}

fn plan(text: &str, set: &[&str]) -> Plan {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let recipe = Recipe::parse("r.toml", text, &set).unwrap_or_else(|e| panic!("{e}"));
    Plan::new(&recipe, Some(10_000.0)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_short_recipe_gets_the_reports_values() {
    let p = plan(MINIMAL, &[]);
    assert_eq!((p.optimizer.beta2, p.optimizer.weight_decay, p.balance.gamma), (0.95, 0.1, 0.001));
    assert_eq!(p.schedule.total_tokens, 20_000_000);
    assert_eq!(p.data.vocab_size, 16_384);
    assert_eq!(p.model.hidden_size, 512);
}

#[test]
fn overrides_win_and_need_no_quotes() {
    let p = plan(
        MINIMAL,
        &[
            "schedule.total_tokens=1M",
            "run.out=runs/some where",
            "data.text=[\"a\", \"b\"]",
            "model.hidden_size=640",
            "model.num_attention_heads=10",
            "model.q_lora_rank=none",
            "batch.sequences = 6",
            "batch.sequences = 4",
            "batch.ramp.from=2",
            "batch.ramp.over=10%",
        ],
    );
    assert_eq!(p.schedule.total_tokens, 1_000_000);
    assert_eq!(p.run.out, "runs/some where");
    assert_eq!(p.text, Some(vec!["a".into(), "b".into()]));
    assert_eq!((p.model.hidden_size, p.model.kv_lora_rank), (640, 128));
    assert_eq!(p.model.q_lora_rank, None);
    assert_eq!((p.schedule.batch.from, p.schedule.batch.to, p.schedule.batch.over), (2, 4, 100_000));
}

#[test]
fn errors_name_the_file_the_line_and_the_key() {
    let e = error(&MINIMAL.replace("peak_lr", "pek_lr"), &[]);
    assert!(e.starts_with("r.toml, line 6: `schedule.pek_lr`"), "{e}");
    assert!(e.contains("did you mean `peak_lr`?"), "{e}");

    let e = error(&MINIMAL.replace("512", "\"long\""), &[]);
    assert!(e.starts_with("r.toml, line 9: `data.seq_len`"), "{e}");

    let e = error(&MINIMAL.replace("512", "1"), &[]);
    assert_eq!(e, "r.toml, line 9: `data.seq_len`: must be at least 2");

    let e = error(&MINIMAL.replace("[data]", "[dat]"), &[]);
    assert!(e.starts_with("r.toml, line 8: `dat`") && e.contains("did you mean `data`?"), "{e}");

    let e = error(&MINIMAL.replace("= 512", "= = 512"), &[]);
    assert!(e.starts_with("r.toml, line 9"), "{e}");

    let e = error(&MINIMAL.replace("peak_lr = 1e-3\n", ""), &[]);
    assert!(e.starts_with("r.toml, line 4: `schedule`") && e.contains("peak_lr"), "{e}");

    // A value that is wrong only in combination with others, and a key that was not written at all.
    let e = error(MINIMAL, &["batch.micro_batch=3"]);
    assert!(e.contains("`batch.sequences`") && e.contains("micro-batches of 3"), "{e}");
}

#[test]
fn errors_in_overrides_name_the_override() {
    let e = error(MINIMAL, &["data.fim_rate=0.2", "optimizer.bta1=0.8"]);
    assert!(e.starts_with("--set optimizer.bta1=0.8: `optimizer.bta1`") && e.contains("`beta1`"), "{e}");
    let e = error(MINIMAL, &["data.fim_rate=2"]);
    assert!(e.starts_with("--set data.fim_rate=2: `data.fim_rate`: must be between"), "{e}");
    let e = error(MINIMAL, &["balance.method=auxfree"]);
    assert!(e.starts_with("--set balance.method=auxfree") && e.contains("did you mean `aux-free`?"), "{e}");
    let e = error(MINIMAL, &["model.n_routed_expert=8"]);
    assert!(e.starts_with("--set model.n_routed_expert=8") && e.contains("`n_routed_experts`"), "{e}");
    let e = error(MINIMAL, &["model.config=smal"]);
    assert!(e.contains("built-in configs: ") && e.contains("small"), "{e}");
    let e = error(MINIMAL, &["model.n_group=5", "model.rms_norm_eps=-1"]);
    assert!(e.contains("`model.n_group`") || e.contains("`model.rms_norm_eps`"), "{e}");
    assert!(e.starts_with("--set model.") && e.contains("; `model."), "{e}");
    for wrong in ["seq_len", "=3", "a b=3", "a..b=3", "\"x\"=3"] {
        assert!(error(MINIMAL, &[wrong]).contains("section.key=value"), "{wrong}");
    }
}

#[test]
fn the_filter_is_a_choice_and_old_plans_have_none() {
    assert_eq!(plan(MINIMAL, &[]).data.filter, Filter::Auto);
    let set = plan(MINIMAL, &["data.filter=none"]);
    assert_eq!(set.data.filter, Filter::None);
    let e = error(MINIMAL, &["data.filter=no"]);
    assert!(e.starts_with("--set data.filter=no") && e.contains("prose"), "{e}");
    let mut old = serde_json::to_value(&set).unwrap();
    assert_eq!(old["data"].as_object_mut().unwrap().remove("filter"), Some("none".into()));
    assert_eq!(serde_json::from_value::<Plan>(old).unwrap().data.filter, Filter::Auto);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (set, key) in [
        ("schedule.warmup=30M", "schedule.warmup"),
        ("schedule.warmup=many", "schedule.warmup"),
        ("schedule.phases=[{until=\"50%\", shape=\"constant\", lr=1e-3}]", "schedule.phases"),
        ("schedule.phases=[{until=\"50%\", shape=\"constant\", lr=\"3 steps\"}]", "schedule.phases.0.lr"),
        ("data.vocab_size=20000", "data.vocab_size"),
        ("data.seq_len=8192", "data.seq_len"),
        ("data.text=[]", "data.text"),
        ("batch.ramp={from=99, over=\"5%\"}", "batch.ramp.from"),
        ("batch.ramp={from=1, over=\"5 steps\"}", "batch.ramp.over"),
        ("checkpoint.every=0", "checkpoint.every"),
        ("eval.tokens=0", "eval.tokens"),
        ("run.seed=-1", "run.seed"),
        ("schedule.total_tokens=measured", "schedule.total_tokens"),
        ("schedule.total_tokens=0", "schedule.total_tokens"),
        ("ema.decay=1", "ema.decay"),
        ("balance.method=batch-aux", "balance.method"),
    ] {
        let e = error(MINIMAL, &[set]);
        assert!(e.starts_with("--set") && e.contains(&format!("`{key}`")), "{set}: {e}");
    }
}

#[test]
fn a_measured_length_is_whole_steps_and_capped() {
    let set = ["schedule.total_tokens=measured", "schedule.minutes=2"];
    // 10,000 tokens per second for two minutes.
    let p = plan(MINIMAL, &set);
    assert_eq!(p.schedule.total_tokens, 1_200_000 / 4096 * 4096);
    let p = plan(MINIMAL, &[set[0], set[1], "schedule.max_tokens=100k"]);
    assert_eq!(p.schedule.total_tokens, 100_000 / 4096 * 4096);
    let recipe = Recipe::parse("r.toml", MINIMAL, &[set[0].into(), "schedule.max_tokens=30%".into()]).unwrap();
    let e = Plan::new(&recipe, Some(1e4)).unwrap_err().to_string();
    assert!(e.starts_with("--set schedule.max_tokens=30%") && e.contains("tokens above 0"), "{e}");
}

#[test]
fn comparison_methods_switch_off_what_they_lack() {
    let p = plan(MINIMAL, &["balance.method=sequence-aux"]);
    assert_eq!((p.schedule.gamma.early, p.balance.gamma, p.balance.alpha), (0.0, 0.0, 0.0001));
    let p = plan(MINIMAL, &["balance.method=none"]);
    assert_eq!((p.schedule.gamma.early, p.balance.alpha), (0.0, 0.0));
}

/// The batch loss covers all tokens of a batch. If the batch were split, it would be a different loss.
#[test]
fn a_batch_wise_loss_wants_whole_batches() {
    let set = ["balance.method=batch-aux", "batch.sequences=8", "batch.micro_batch=4"];
    let e = error(MINIMAL, &set);
    assert!(
        e.starts_with("--set balance.method=batch-aux: `balance.method`") && e.contains("batch.micro_batch = 8"),
        "{e}"
    );
    let whole = [set[0], set[1], "batch.micro_batch=8"];
    assert_eq!(plan(MINIMAL, &whole).balance.method, BalanceMethod::BatchAux);
    // A smaller batch at the start would not be a whole micro-batch.
    let e = error(MINIMAL, &[set[0], set[1], whole[2], "batch.ramp={from=4, over=\"5%\"}"]);
    assert!(e.contains("`batch.ramp.from`") && e.contains("micro-batches of 8"), "{e}");
    let extension = format!("{MINIMAL}\n[[extension]]\nseq_len = 1024\ntotal_tokens = \"1M\"\nsequences = 4\n");
    let e = error(&extension, &whole);
    assert!(
        e.starts_with("r.toml, line 1") && e.contains("`extension.0.micro_batch`") && e.contains("micro_batch = 4"),
        "{e}"
    );
    assert_eq!(plan(&(extension + "micro_batch = 4\n"), &whole).extensions.len(), 1);
}

#[test]
fn a_plan_survives_its_file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, _) in RECIPES {
        let p = Plan::new(&Recipe::load(name, &[]).unwrap(), Some(3456.7)).unwrap_or_else(|e| panic!("{e}"));
        p.save(dir.path()).unwrap();
        assert_eq!(Plan::load(dir.path()).unwrap(), p);
        let mut q = p.clone();
        q.run.seed += 1;
        assert_eq!(p.differences(&q), ["run.seed: 1 / 2"]);
    }
    std::fs::write(dir.path().join("plan.json"), "{\"version\": 99}").unwrap();
    assert!(Plan::load(dir.path()).unwrap_err().to_string().contains("version 99"));
    assert!(Plan::load(&dir.path().join("nowhere")).unwrap_err().to_string().contains("cannot read"));
}

/// Dotted keys of a serialised recipe, without the model's own fields and the elements of lists.
fn keys(value: &toml::Value, prefix: &str, out: &mut Vec<String>) {
    let toml::Value::Table(table) = value else { return };
    for (k, v) in table {
        let path = format!("{prefix}{k}");
        if !path.starts_with("model.") {
            out.push(path.clone());
            keys(v, &format!("{path}."), out);
        }
    }
}

#[test]
fn every_recipe_writes_and_explains_every_key() {
    let all = |text: &str| {
        let mut out = Vec::new();
        let recipe = Recipe::parse("r.toml", text, &[]).unwrap();
        keys(&toml::Value::try_from(&recipe).unwrap(), "", &mut out);
        (recipe, out)
    };
    for (name, text) in RECIPES {
        let (recipe, keys) = all(text);
        assert_eq!(recipe.name, name);
        for key in keys {
            assert!(recipe.source.has(&key), "{name} does not write {key}");
        }
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let is_key = line.contains(" = ") && line.starts_with(|c: char| c.is_ascii_lowercase());
            assert!(!is_key || lines[i - 1].starts_with('#'), "{name}: `{line}` has no comment");
        }
    }
}

#[test]
fn an_unknown_recipe_lists_the_known() {
    let e = Recipe::load("quikstart", &[]).unwrap_err().to_string();
    assert!(e.contains("quickstart, small, needle, v2-lite-shape, deepseek-v3"), "{e}");
}

#[test]
fn the_precision_table_is_a_column_with_rows_of_its_own() {
    use hadal_weights::precision::{Gradients, Keep, Precision, Product};
    let plan = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Recipe::load("quickstart", &sets).and_then(|r| Plan::new(&r, Some(1e4)))
    };
    assert_eq!(plan(&[]).unwrap().precision, Precision::COMPUTE);
    assert_eq!(plan(&["run.precision=fp8"]).unwrap().precision, Precision::FP8);
    let mixed = plan(&[
        "run.precision=fp8",
        "precision.expert_down=compute",
        "precision.gradients=block",
        "precision.swiglu_input=compute",
        "precision.recompute=false",
    ]);
    let (product, keep) = (Product::Compute, Keep::Compute);
    let want = Precision {
        expert_down: product,
        gradients: Gradients::Block,
        swiglu_input: keep,
        recompute: false,
        ..Precision::FP8
    };
    assert_eq!(mixed.unwrap().precision, want);
    for (sets, says) in [
        (&["precision.expert_dwon=fp8"][..], "expert_down"),
        (&["precision.expert_down=fp4"], "precision.expert_down"),
        (&["precision.dispatch=e5m6"], "precision.dispatch"),
        (&["precision.recompute=3"], "precision.recompute"),
        (&["run.precision=f32", "precision.kv_up=fp8"], "precision.kv_up"),
        (&["run.precision=fp4"], "run.precision"),
    ] {
        let error = plan(sets).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// A row that is unknown, lacks this value or has no effect is rejected, and the error names its place.
#[test]
fn rows_of_the_precision_table_are_checked_where_they_stand() {
    let recipe = |run: &str, rows: &str| format!("{MINIMAL}\n[run]\nprecision = \"{run}\"\n\n[precision]\n{rows}\n");
    let none = "applies to fp8 products, but this run has none";
    let f32 = "an f32 run uses f32 everywhere: the table only changes bf16 and fp8 runs";
    for (run, rows, says) in [
        (
            "fp8",
            "kv_upp = \"fp8\"",
            "15: `precision.kv_upp`: the precision table has no such row (did you mean `kv_up`?)",
        ),
        (
            "fp8",
            "kv_up = \"fp4\"",
            "15: `precision.kv_up`: unknown variant `fp4`, expected one of `compute`, `fp8`, `f32` (for example \"fp8\")",
        ),
        ("fp8", "recompute = true\nkv_up = 8", "16: `precision.kv_up`: is 8, not a string (for example \"fp8\")"),
        ("bf16", "dispatch = \"e5m6\"", "15: `precision.dispatch`: must be \"compute\" or \"fp8\""),
        ("bf16", "recompute = true\ngradients = \"block\"", &format!("16: `precision.gradients`: {none}")),
        ("f32", "gradients = \"block\"", &format!("15: `precision.gradients`: {none}")),
        ("f32", "recompute = true\nkv_up = \"fp8\"", &format!("16: `precision.kv_up`: {f32}")),
        ("f32", "swiglu_input = \"fp8\"", &format!("15: `precision.swiglu_input`: {f32}")),
    ] {
        assert_eq!(error(&recipe(run, rows), &[]), format!("r.toml, line {says}"));
    }
    for (run, rows) in [
        ("f32", "recompute = true\nkv_up = \"compute\"\ngate_up = \"f32\"\ngradients = \"tile\""),
        ("bf16", "kv_up = \"fp8\"\ngradients = \"block\""),
    ] {
        plan(&recipe(run, rows), &[]);
    }
}
