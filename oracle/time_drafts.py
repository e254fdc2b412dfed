"""time_drafts.py HADAL MODEL [ROUNDS [ACCEPTANCE [TOKENS]]]: what MTP drafts cost and bring, with forced acceptance.

Alternates five runs of `HADAL bench infer`: without drafts; drafts with none accepted, always and automatic; drafts with the
share ACCEPTANCE accepted, always and automatic. A step in which no draft is accepted costs two rows and a draft and gives
one token. So (1 + acceptance) x its rate is what drafts can bring. Prints medians, the share of it that is reached, and
the automatic runs beside none.
"""
import json, statistics, subprocess, sys

hadal, model = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
share = float(sys.argv[4]) if len(sys.argv) > 4 else 0.85
tokens = sys.argv[5] if len(sys.argv) > 5 else "400"
RUNS = {
    "no drafts": ["--speculation", "off"],
    "always, none accepted": ["--speculation", "always", "--acceptance", "0"],
    "automatic, none accepted": ["--speculation", "auto", "--acceptance", "0"],
    f"always, {share} accepted": ["--speculation", "always", "--acceptance", str(share)],
    f"automatic, {share} accepted": ["--speculation", "auto", "--acceptance", str(share)],
}
rates, accepted = {name: [] for name in RUNS}, {name: [] for name in RUNS}
for _ in range(rounds):
    for name, arguments in RUNS.items():
        command = [hadal, "bench", "infer", model, "--prompt", "64", "--generate", tokens, "--repeat", "1", "--json"]
        found = json.loads(subprocess.run(command + arguments, check=True, capture_output=True, text=True).stdout)["results"][0]
        rates[name].append(found["decode"])
        accepted[name].append(found["acceptance"] or 0.0)
        print(f"{name}: {found['decode']:.1f} tokens/s, accepted {accepted[name][-1]:.2f}", flush=True)
plain, none, none_auto, some, some_auto = (statistics.median(rates[name]) for name in RUNS)
p = statistics.median(accepted[f"always, {share} accepted"])
bound = (1 + p) * none
print(f"no drafts {plain:.1f}; a step of two rows and a draft takes {plain / none:.2f} times as long as one row")
print(f"{p:.2f} accepted: {some:.1f}, {some / bound:.2f} of the bound {bound:.1f}, {some / plain:.2f} of no drafts")
print(f"automatic beside no drafts: {some_auto / plain:.2f} with {share} accepted, {none_auto / plain:.2f} with none")
