//! TensorBoard event files, written without a library: the format is a few protobuf fields in frames with length and
//! checksum.
//!
//! ```text
//! record = length u64 | masked crc32c(length) u32 | Event | masked crc32c(Event) u32       (little endian)
//! Event  = 1: wall_time f64 | 2: step i64 | 3: file_version | 5: Summary | 7: SessionLog
//! Value  = 1: tag | 2: simple_value f32 | 5: HistogramProto
//! ```
//!
//! Every session of a run writes its own file, which begins with a START mark at the session's first step. At every
//! START except the first, TensorBoard discards what earlier files say about that step and later ones.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::{LayerLoad, StepMetrics};
use hadal_base::{IoContext, IoError};

/// The open event file of a session.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl EventFile {
    /// Begins a session in `folder` that continues after `step` (0 for a new run).
    pub fn create(folder: &Path, step: u64) -> Result<Self, IoError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // TensorBoard reads the files of a folder in the order of their names.
        let name =
            format!("events.out.tfevents.{:010}.{:06}.{}", now.as_secs(), now.subsec_micros(), std::process::id());
        let path = folder.join(name);
        let file = fs::create_dir_all(folder).and_then(|()| File::create_new(&path));
        let file = file.at("create", &path)?;
        let mut this = Self { file, path, buffer: Vec::new() };
        this.event(now.as_secs_f64(), 0, |e| string(e, 3, "brain.Event:2"))?;
        // SessionLog.status = START
        this.event(now.as_secs_f64(), step + 1, |e| message(e, 7, |log| uint(log, 1, 1)))?;
        Ok(this)
    }

    /// Writes the numbers of one step, and the experts' loads if the step has them.
    pub fn append(&mut self, m: &StepMetrics) -> Result<(), IoError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.event(now, m.step, |e| message(e, 5, |summary| summarize(summary, m)))
    }

    fn event(&mut self, time: f64, step: u64, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), IoError> {
        let mut event = std::mem::take(&mut self.buffer);
        event.clear();
        double(&mut event, 1, time);
        uint(&mut event, 2, step);
        body(&mut event);
        let mut record = Vec::with_capacity(event.len() + 16);
        let length = (event.len() as u64).to_le_bytes();
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(&event);
        record.extend_from_slice(&masked_crc(&event).to_le_bytes());
        self.buffer = event;
        self.file.write_all(&record).at("write to", &self.path)
    }
}

fn summarize(out: &mut Vec<u8>, m: &StepMetrics) {
    let mut scalar = |tag: &str, value: f64| {
        message(out, 1, |v| {
            string(v, 1, tag);
            float(v, 2, value as f32);
        });
    };
    scalar("loss/train", m.loss);
    for (k, loss) in m.mtp_loss.iter().enumerate() {
        scalar(&format!("loss/mtp_{}", k + 1), *loss);
    }
    scalar("loss/balance", m.balance_loss);
    if let Some(v) = &m.validation {
        scalar("validation/loss", v.loss);
        scalar("validation/bits_per_byte", v.bits_per_byte);
        if let Some(loss) = v.ema_loss {
            scalar("validation/ema_loss", loss);
        }
    }
    scalar("optimizer/lr", m.lr);
    scalar("optimizer/grad_norm", m.grad_norm);
    scalar("optimizer/batch", m.batch as f64);
    scalar("optimizer/tokens", m.tokens as f64);
    scalar("speed/tokens_per_second", m.tokens_per_second);
    scalar("speed/mfu", m.mfu);
    scalar("speed/loader_wait", m.loader_wait);
    scalar("speed/memory_gb", m.memory as f64 / 1e9);
    for (name, value) in &m.figures {
        scalar(&format!("objective/{name}"), *value);
    }
    for l in &m.layers {
        scalar(&format!("max_vio/layer_{:02}", l.layer), l.max_vio);
        scalar(&format!("max_vio_run/layer_{:02}", l.layer), l.max_vio_run);
        scalar(&format!("dead_experts/layer_{:02}", l.layer), l.dead);
    }
    for l in m.layers.iter().filter(|l| !l.load.is_empty()) {
        message(out, 1, |v| {
            string(v, 1, &format!("expert_load/layer_{:02}", l.layer));
            message(v, 5, |h| histogram(h, l));
        });
    }
}

/// A HistogramProto with one bucket per expert. The height of a bucket is the expert's load.
fn histogram(out: &mut Vec<u8>, l: &LayerLoad) {
    let loads = || l.load.iter().map(|&n| f64::from(n));
    let sum: f64 = loads().sum();
    let by_expert = |power: i32| loads().enumerate().map(|(i, n)| n * (i as f64 + 0.5).powi(power)).sum::<f64>();
    double(out, 1, 0.0);
    double(out, 2, l.load.len() as f64);
    double(out, 3, sum);
    double(out, 4, by_expert(1));
    double(out, 5, by_expert(2));
    message(out, 6, |limits| (1..=l.load.len()).for_each(|i| limits.extend_from_slice(&(i as f64).to_le_bytes())));
    message(out, 7, |buckets| loads().for_each(|n| buckets.extend_from_slice(&n.to_le_bytes())));
}

/// The checksum of the frames. It is rotated and shifted, so that a checksum of checksums is not weaker.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn uint(out: &mut Vec<u8>, field: u64, n: u64) {
    varint(out, field << 3);
    varint(out, n);
}

fn double(out: &mut Vec<u8>, field: u64, x: f64) {
    varint(out, field << 3 | 1);
    out.extend_from_slice(&x.to_le_bytes());
}

fn float(out: &mut Vec<u8>, field: u64, x: f32) {
    varint(out, field << 3 | 5);
    out.extend_from_slice(&x.to_le_bytes());
}

fn string(out: &mut Vec<u8>, field: u64, text: &str) {
    varint(out, field << 3 | 2);
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn message(out: &mut Vec<u8>, field: u64, body: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    body(&mut inner);
    varint(out, field << 3 | 2);
    varint(out, inner.len() as u64);
    out.extend_from_slice(&inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of every file in `folder`. The frames are checked.
    fn events(folder: &Path) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let mut out = Vec::new();
        for name in names {
            let data = fs::read(name).unwrap();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                assert_eq!(masked_crc(&rest[..8]).to_le_bytes(), rest[8..12], "checksum of a length");
                let event = &rest[12..12 + n];
                assert_eq!(masked_crc(event).to_le_bytes(), rest[12 + n..16 + n], "checksum of an event");
                out.push(event.to_vec());
                rest = &rest[16 + n..];
            }
        }
        out
    }

    fn read_varint(b: &mut &[u8]) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let byte = b[0];
            *b = &b[1..];
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return n;
            }
        }
    }

    /// Fields of a message: number and payload (a varint as its little-endian bytes).
    fn fields(mut b: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        while !b.is_empty() {
            let key = read_varint(&mut b);
            let n = match key & 7 {
                0 => {
                    out.push((key >> 3, read_varint(&mut b).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                5 => 4,
                2 => read_varint(&mut b) as usize,
                other => panic!("wire type {other}"),
            };
            out.push((key >> 3, b[..n].to_vec()));
            b = &b[n..];
        }
        out
    }

    fn field(b: &[u8], number: u64) -> Vec<u8> {
        fields(b).into_iter().find(|f| f.0 == number).unwrap_or_else(|| panic!("no field {number}")).1
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        // The test vector of RFC 3720: 32 zero bytes.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[]), 0xa282_ead8);
    }

    #[test]
    fn a_session_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let step = |n| StepMetrics {
            step: n,
            loss: 4.5,
            mtp_loss: vec![5.5],
            layers: vec![LayerLoad::new(3, &[1, 300, 0], &[1, 300, 0])],
            ..StepMetrics::default()
        };
        let mut f = EventFile::create(dir.path(), 0).unwrap();
        f.append(&step(1)).unwrap();
        f.append(&step(300)).unwrap();
        EventFile::create(dir.path(), 300).unwrap().append(&step(301)).unwrap();
        let events = events(dir.path());
        assert_eq!(events.len(), 7);
        assert_eq!(field(&events[0], 3), b"brain.Event:2");
        assert_eq!(field(&events[3], 2), 300u64.to_le_bytes());
        let values: Vec<Vec<u8>> = fields(&field(&events[3], 5)).into_iter().map(|f| f.1).collect();
        let find = |tag: &str| values.iter().find(|v| field(v, 1) == tag.as_bytes()).unwrap_or_else(|| panic!("{tag}"));
        assert_eq!(field(find("loss/train"), 2), 4.5f32.to_le_bytes());
        assert_eq!(field(find("loss/mtp_1"), 2), 5.5f32.to_le_bytes());
        let h = field(find("expert_load/layer_03"), 5);
        let buckets = field(&h, 7);
        assert_eq!(buckets, [1f64, 300.0, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        // Both sessions begin with a START mark. The second mark is one step after the checkpoint.
        for (event, step) in [(&events[1], 1u64), (&events[5], 301)] {
            assert_eq!(field(event, 2), step.to_le_bytes());
            assert_eq!(field(&field(event, 7), 1), 1u64.to_le_bytes());
        }
    }
}
