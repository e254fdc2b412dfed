//! Small programs: what do they print?
//!
//! A program has the variables `a`, `b` and `c`, which hold whole numbers from 0 to 99. All arithmetic is modulo 100.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Draw, Question};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A statement of a program.
enum Statement {
    /// `x = (y * k + z) % 100`
    Set { x: usize, y: usize, k: u64, z: usize },
    /// `x, y = y, x`
    Swap { x: usize, y: usize },
    /// `if y < z: x = (x + k) % 100`
    If { x: usize, y: usize, z: usize, k: u64 },
    /// `for _ in range(n): x = (x + y) % 100`
    Repeat { x: usize, y: usize, n: u64 },
}

impl Statement {
    fn draw(draw: &mut Draw) -> Self {
        let mut variable = || draw.below(3) as usize;
        let (x, y, z) = (variable(), variable(), variable());
        let k = 1 + draw.below(9);
        match draw.below(4) {
            0 => Self::Swap { x, y: if x == y { (x + 1) % 3 } else { y } },
            1 => Self::If { x, y, z: if y == z { (y + 1) % 3 } else { z }, k },
            2 => Self::Repeat { x, y: if x == y { (x + 1) % 3 } else { y }, n: 2 + draw.below(4) },
            _ => Self::Set { x, y, k, z },
        }
    }

    fn run(&self, memory: &mut [u64; 3]) {
        match *self {
            Self::Set { x, y, k, z } => memory[x] = (memory[y] * k + memory[z]) % 100,
            Self::Swap { x, y } => memory.swap(x, y),
            Self::If { x, y, z, k } if memory[y] < memory[z] => memory[x] = (memory[x] + k) % 100,
            Self::If { .. } => {}
            Self::Repeat { x, y, n } => memory[x] = (memory[x] + n * memory[y]) % 100,
        }
    }

    fn text(&self) -> String {
        let name = |i: usize| NAMES[i];
        match *self {
            Self::Set { x, y, k, z } => format!("{} = ({} * {k} + {}) % 100", name(x), name(y), name(z)),
            Self::Swap { x, y } => format!("{}, {} = {}, {}", name(x), name(y), name(y), name(x)),
            Self::If { x, y, z, k } => format!("if {} < {}: {} = ({} + {k}) % 100", name(y), name(z), name(x), name(x)),
            Self::Repeat { x, y, n } => format!("for _ in range({n}): {} = ({} + {}) % 100", name(x), name(x), name(y)),
        }
    }
}

pub(super) fn question(draw: &mut Draw, difficulty: u32) -> Question {
    let mut memory: [u64; 3] = std::array::from_fn(|_| draw.below(100));
    let mut program = String::new();
    for (name, value) in NAMES.iter().zip(memory) {
        _ = writeln!(program, "{name} = {value}");
    }
    for _ in 0..difficulty {
        let statement = Statement::draw(draw);
        statement.run(&mut memory);
        _ = writeln!(program, "{}", statement.text());
    }
    let shown = draw.below(3) as usize;
    _ = write!(program, "print({})", NAMES[shown]);
    Question {
        question: format!("What does this program print?\n{program}"),
        answer: memory[shown].to_string(),
        data: Value::Null,
    }
}
