#!/usr/bin/env python3
"""A small `tiktoken.model` in the layout of Kimi-K2 and Moonlight, with the ids that the tiktoken library gives for mixed texts.

usage: make_tiktoken.py OUT      (pip install tiktoken)

The pattern is the one of the released tokenization_kimi.py. The vocabulary is trained on this script and a few sentences by tiktoken's
own educational trainer. Tokens that no merge reaches are added: tiktoken gives them where a whole piece is in the vocabulary.
"""
import base64
import contextlib
import io
import json
import os
import random
import sys

import tiktoken
from tiktoken._educational import bpe_train

PATTERN = "|".join([
    r"""[\p{Han}]+""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""\p{N}{1,3}""",
    r""" ?[^\s\p{L}\p{N}]+[\r\n]*""",
    r"""\s*[\r\n]+""",
    r"""\s+(?!\S)""",
    r"""\s+""",
])
SENTENCES = ("深度求索与月之暗面。人工智能 模型 你好，世界！日本語のテキストとひらがなとカタカナ。한국어 문장도 있습니다. "
             "I'm sure they'll say it's what we've done; don't DON'T HTTPServer parseXMLFile. Привет, мир! ÀÉÎ naïve façade 12345 3.14159 "
             "def f(x):\n    return x ** 2\n\n\tif (a && b) { c += 1; }\r\n") * 3
UNREACHABLE = [" zyxwv", "QqQqQ", "月球背面", "====!"]
# Strings of one word repeated have splits whose joined text is the same.
RUNS = ["--", "---", "----", "-----", "--------", "    ", "      ", "        ", "哈哈", "哈哈哈"]
SPECIAL = {"[BOS]": True, "[EOS]": True, "<|im_end|>": True, "<|im_user|>": True, "<|tool_call_begin|>": False, "[PAD]": True}
PIECES = ["fn main() {\n    let x = 12345;\n}\n", "I'm", "DON'T", "they'LL", "it's", " 've", "HTTPServer", "parseXML", "naïve", "À", "ﬁ", "ǅ", "深度", "求索", "〇", "々",
          "月之暗面", "월", "ひらがな", "カタカナ", "한국어", "Привет", "मी", "ก็", "e\u0301", "\u0301", "😀", "👨‍👩‍👧", "1", "22", "333", "4444", "५६", "Ⅷ", "½", " ", "  ", "   ",
          "\t", "\n", "\r\n", "\n\n", "\u3000", "\u00a0", "\u2028", "\x85", "\x00", "\ufeff", ",", "。", "！", "--", "---", "=" * 7, "a" * 40, "-" * 33, " " * 41, "哈" * 9,
          " zyxwv", "zyxwv", "QqQqQ", "月球背面", "====!", "_x", "$y", "'", "''", "\\n", "…", "²", "·", "ʼ", "ß", "İ", "<|im_end|>", "[BOS]"]


def texts():
    rng = random.Random(3)
    mixed = ["".join(rng.choices(PIECES, k=rng.randint(1, 14))) for _ in range(160)]
    long = ["-" * 300, " " * 257 + "x", "哈" * 130, "ab" * 200 + "\n" * 150, "\n" * 101 + " x", "1" * 200, "=" * 128 + "\r\n"]
    return ["", SENTENCES[:400], *PIECES, *mixed, *long]


def main(out):
    text = SENTENCES + open(__file__, encoding="utf-8").read()
    with contextlib.redirect_stdout(io.StringIO()):
        ranks = bpe_train(data=text, vocab_size=480, pat_str=PATTERN, visualise=None)
    for token in RUNS + UNREACHABLE:
        ranks.setdefault(token.encode(), len(ranks))
    # The released vocabularies leave gaps between ordinary and special tokens.
    special = {name: len(ranks) + 2 + 3 * i for i, name in enumerate(SPECIAL)}
    library = tiktoken.Encoding(name="small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/tiktoken.model", "w") as f:
        f.writelines(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    decoder = {str(i): {"content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": SPECIAL[name]} for name, i in special.items()}
    config = {"added_tokens_decoder": decoder, "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}, "bos_token": "[BOS]", "eos_token": "[EOS]",
              "pad_token": "[PAD]", "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "TikTokenTokenizer"}
    with open(f"{out}/tokenizer_config.json", "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    rows = [dict(text=t, ids=library.encode_ordinary(t), special=library.encode(t, allowed_special="all")) for t in texts()]
    with open(f"{out}/expected.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps({k: v for k, v in r.items() if k != "special" or v != r["ids"]}) for r in rows) + "\n]\n")
    print(f"{len(ranks)} tokens, {len(special)} special ones, {len(rows)} texts")


if __name__ == "__main__":
    main(sys.argv[1])
