//! Steps of editing applied to a row of letters.

use serde_json::Value;

use super::{Draw, Question};

pub(super) fn question(draw: &mut Draw, difficulty: u32) -> Question {
    let length = 2 * difficulty as usize + 3;
    let letters = ['a', 'b', 'c', 'd', 'e', 'f'];
    let start: Vec<char> = (0..length).map(|_| *draw.choose(&letters)).collect();
    let mut now = start.clone();
    let mut steps = Vec::new();
    while steps.len() < difficulty as usize {
        let (a, b) = (*draw.choose(&letters), *draw.choose(&letters));
        let step = match draw.below(6) {
            0 => {
                now.reverse();
                "reverse it".to_owned()
            }
            1 if now.contains(&a) && now.iter().any(|c| *c != a) => {
                now.retain(|c| *c != a);
                format!("remove every {a}")
            }
            2 if a != b => {
                now.iter_mut().filter(|c| **c == a).for_each(|c| *c = b);
                format!("replace every {a} by {b}")
            }
            3 => {
                now.rotate_left(1);
                "move the first letter to the end".to_owned()
            }
            4 => {
                now.push(a);
                format!("add {a} at the end")
            }
            5 => {
                let last = now.len() - 1;
                now.swap(0, last);
                "swap the first and the last letter".to_owned()
            }
            _ => continue,
        };
        steps.push(step);
    }
    let text = |letters: &[char]| letters.iter().collect::<String>();
    Question {
        question: format!(
            "Take the letters {}. Then, in this order: {}. What is the result?",
            text(&start),
            steps.join("; ")
        ),
        answer: text(&now),
        data: Value::Null,
    }
}
