# `just` lists the recipes. Each is a plain command that also works without `just`.

_list:
    @just --list --unsorted

# The first command of the README: trains a small model and shows that it learned.
quickstart *ARGS:
    cargo run --release -- quickstart {{ARGS}}

# The second command of the README: runs all tests.
test:
    cargo test --workspace

# Formatting and lints, as CI checks them.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p hadal-data --features parquet -- -D warnings

# Everything that a change must pass.
ci:
    .ci/run

# API documentation, opened in a browser.
doc:
    cargo doc --no-deps --workspace --open

# Licences and sources of the dependencies (needs cargo-deny).
deny:
    cargo deny check bans licenses sources

# Train from a recipe: just pretrain small --set schedule.total_tokens=20M
pretrain *ARGS:
    cargo run --release -- pretrain {{ARGS}}

# Matrix products of a step of the recipe `small`, as a share of the instruction peak: just bench-gemm 2 --precision fp8
bench-gemm THREADS="0" *ARGS:
    cargo run --release -- bench gemm small --threads {{THREADS}} {{ARGS}}

# Whole training steps: just bench-train small --profile
bench-train *ARGS:
    cargo run --release -- bench train {{ARGS}}

# Quantising, packing and products in FP8.
bench-fp8 THREADS="0":
    cargo run --release -p hadal-ops --example quantize {{THREADS}}

# One of the report's comparisons: just experiment fp8
experiment *ARGS:
    cargo run --release -- experiment {{ARGS}}

# Time to the first token and memory of a checkpoint, alternating with `cat` of its files: just bench-load MODEL
bench-load MODEL ROUNDS="7":
    cargo build --release
    python3 oracle/time_loading.py target/release/hadal {{MODEL}} {{ROUNDS}}

# Memory traffic of the pointwise operations.
bench-pointwise:
    cargo bench -p hadal-ops --bench pointwise

# The whole data path: reading, filter, tokenizer, packing, loading, baselines.
bench-data *PATHS:
    cargo run --release -p hadal-data --example corpus {{PATHS}}

# Random chat templates and random texts of models for some seconds.
chat-fuzz SECONDS="60" SEED="1":
    cargo run -p hadal-data --example chat_fuzz -- {{SECONDS}} {{SEED}}

# Compare chat templates (a folder of .jinja files) with transformers.
chat-check TEMPLATES OUT="target/chat":
    python oracle/make_chat.py {{TEMPLATES}} {{OUT}}
    cargo run -p hadal-data --example chat_check -- {{TEMPLATES}} {{OUT}}

# Renew the reference results in crates/model/tests/fixtures (needs PyTorch: oracle/README.md).
fixtures:
    python oracle/make_fixtures.py crates/model/tests/fixtures

# Make the results of one variant, for comparison with `hadal dump` (oracle/README.md).
oracle VARIANT="norope" SIZE="full":
    python oracle/make_fixtures.py target/oracle --size {{SIZE}} --variant {{VARIANT}}

# Drive the page of `hadal serve` in Chromium with a model (needs node and chromium): just page-check runs/quickstart
page-check MODEL="runs/quickstart" *PICTURES:
    cargo build -p hadal
    npm install --prefix oracle/page --no-package-lock --no-audit --no-fund
    node oracle/page/check.mjs target/debug/hadal {{MODEL}} {{PICTURES}}

# Memory of a model: loaded in BF16, and in int4 from a new folder OUT that is mapped, beside the sizes of the files
memory MODEL OUT:
    cargo build --release
    du -shL {{MODEL}}
    target/release/hadal bench infer {{MODEL}} --weights full --repeat 1
    target/release/hadal quantize {{MODEL}} --out {{OUT}} --weights int4
    du -sh {{OUT}}
    target/release/hadal bench infer {{OUT}} --repeat 1

# Many clients against a server, some of them badly behaved: just serve-soak MODEL 600. `tiny` is a model made on the spot.
serve-soak MODEL="tiny" SECONDS="60" CLIENTS="64":
    cargo run -p hadal-serve --example soak -- {{MODEL}} {{SECONDS}} {{CLIENTS}}

# Random bodies of requests: none may be answered with an error of the server's own.
serve-fuzz SECONDS="60" SEED="1":
    cargo run -p hadal-serve --example fuzz_bodies -- {{SECONDS}} {{SEED}}

# Random damage to folders of checkpoints: each must load and answer, or be refused.
fuzz-folders SECONDS="60" SEED="1":
    cargo run -p hadal-serve --example fuzz_folders -- {{SECONDS}} {{SEED}}

# Random damage to conversations, stored sequences and adapters: each must be read, or refused.
fuzz-chats SECONDS="60" SEED="1":
    cargo run -p hadal-post --example fuzz_chats -- {{SECONDS}} {{SEED}}

# Real clients against `hadal serve` (oracle/clients/README.md): just serve-clients runs/quickstart
serve-clients MODEL:
    cargo build --release
    oracle/clients/run.sh target/release/hadal {{MODEL}}
