//! Programs that are right, wrong and hostile.

use serde_json::Value;

use super::*;

fn checker(seconds: f64) -> PythonChecker {
    let name = |text: &str| text.to_owned();
    let limits = Limits { time: Duration::from_secs_f64(seconds), ..Limits::default() };
    PythonChecker { prompt: name("prompt"), entry_point: name("entry_point"), test: name("test"), limits }
}

/// The verdicts on answers. Nothing, with a line that says why, on a machine without a sandbox.
fn verdicts(document: &Value, answers: &[&str], seconds: f64) -> Option<Vec<f64>> {
    let case = |(at, answer): (usize, &&'static str)| (at, *answer);
    let _ = case;
    let cases: Vec<Case> = answers
        .iter()
        .enumerate()
        .map(|(at, answer)| Case { id: at.to_string(), document, target: String::new(), answer })
        .collect();
    match checker(seconds).check(&cases) {
        Ok(verdicts) => Some(verdicts),
        Err(TaskError::Sandbox(problem)) => {
            eprintln!("skipped: {problem}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn addition() -> Value {
    json!({
        "prompt": "import math\n\ndef add(a, b):\n    \"\"\"Adds.\"\"\"\n",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, b=1) == 0\n    assert candidate([1], [2]) == [1, 2]\n",
    })
}

#[test]
fn right_functions_pass_and_wrong_ones_fail() {
    let right = [
        "    return a + b\n",
        "```python\ndef add(a, b):\n    return a + b\n```",
        "    print('x')\n    return a + b\n```\nDone.",
    ];
    let wrong = [
        "    return a - b\n",
        "",
        "    return None\n",
        "  return a + b\n x",
        "    raise ValueError()\n",
        "    while True: pass\n",
    ];
    let Some(verdicts) = verdicts(&addition(), &[&right[..], &wrong].concat(), 1.5) else { return };
    assert_eq!(verdicts, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_verdict_cannot_be_forged() {
    let forged = [
        "    import os; os._exit(77)\n",
        "    import sys; sys.exit(0)\n",
        "    return a + b\nimport os; os._exit(77)\n",
        "    print('PASSED', flush=True)\n    import os; os.write(1, b'77'); os._exit(0)\n",
        // An object that equals everything.
        "    class E:\n        def __eq__(self, other): return True\n    return E()\n",
        "    class E(int):\n        def __eq__(self, other): return True\n    return E(0)\n",
        // The tests' process cannot be reached.
        "    import os, signal\n    for p in range(1, 40):\n        try: os.kill(p, signal.SIGKILL)\n        except OSError: pass\n    return 0\n",
        // Messages of its own on the pipe.
        "    import os\n    for fd in range(3, 20):\n        try: os.write(fd, (14).to_bytes(8, 'little') + b\"('result', 99)\")\n        except OSError: pass\n    return 0\n",
        "    raise AssertionError()\n",
    ];
    let Some(verdicts) = verdicts(&addition(), &forged, 1.5) else { return };
    assert_eq!(verdicts, vec![0.0; forged.len()]);
}

#[test]
fn the_program_of_an_answer_is_the_harnesss() {
    let prompt = "import math\n\ndef f(x):\n    \"\"\"Doc.\"\"\"\n";
    // Without fences, it is the prompt and the answer, as in lm-evaluation-harness.
    assert_eq!(program(prompt, "f", "    return 1\n"), format!("{prompt}    return 1\n"));
    let fenced = "Here:\n```python\ndef f(x):\n    return 1\n```\nDone.";
    assert_eq!(program(prompt, "f", fenced), "import math\n\ndef f(x):\n    return 1\n");
    assert_eq!(program(prompt, "f", "    return 1\n```"), format!("{prompt}    return 1\n"));
    assert_eq!(program(prompt, "f", "```\n    return 1\n```"), format!("{prompt}    return 1\n"));
}
