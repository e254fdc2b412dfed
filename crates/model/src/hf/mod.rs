//! Hugging Face checkpoints: `config.json`, safetensors in one file or many, written so that other programs load them.

mod config_json;
mod keys;
