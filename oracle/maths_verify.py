"""Asks math-verify 0.9.0 about every pair of crates/tasks/tests/fixtures/maths_pairs.json and records its verdicts there.

Run: pip install math-verify==0.9.0, then python oracle/maths_verify.py
"""

import json
from pathlib import Path

from math_verify import parse, verify

PAIRS = Path(__file__).parent.parent / "crates/tasks/tests/fixtures/maths_pairs.json"


def read(text):
    """The text as its authors advise: LaTeX stands between dollars, and a text that shows its answer stays as it is."""
    shown = "\\boxed" in text or text.rstrip(".").endswith("$")
    return parse(text if shown else f"${text}$") or parse(text)


def main():
    pairs = json.loads(PAIRS.read_text("utf8"))
    for pair in pairs:
        pair["math_verify"] = bool(verify(read(pair["gold"]), read(pair["answer"])))
    lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    PAIRS.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf8")
    for pair in pairs:
        if pair["equal"] != pair["math_verify"]:
            print("math-verify says", pair["math_verify"], "of", pair["rule"], pair["gold"], "and", pair["answer"])


if __name__ == "__main__":
    main()
