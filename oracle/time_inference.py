"""time_inference.py HADAL MODEL [--weights FORMAT] [--rounds N] [--peer "NAME=COMMAND"]... [--batched "NAME=COMMAND"]...

Times `HADAL bench infer MODEL` beside llama.cpp and its forks, alternated in one run. A peer's COMMAND is `llama-bench` with
its model, threads and mode, for example "ik mla 1=ik/llama-bench -m m2-q8.gguf -t 2 -mla 1 -fmoe 1 -rtr 1". A batched
COMMAND is `llama-batched-bench` in the same way. For each measure the best mode of a program is the one with the best
median. `--measure NAME` (several times) picks some of the measures. The measure `start` is the time of a whole program that
generates one token, in seconds, with the model's files in the page cache. A run during which other processes used more than
0.05 cores is repeated, at most three times, and otherwise marked. Prints each run, then medians and ratios.
"""
import argparse, json, os, resource, shlex, statistics, subprocess, sys

parser = argparse.ArgumentParser()
parser.add_argument("hadal")
parser.add_argument("model")
parser.add_argument("--weights")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--peer", action="append", default=[])
parser.add_argument("--batched", action="append", default=[])
parser.add_argument("--measure", action="append")
parser.add_argument("--depth", type=int, default=8000)
parser.add_argument("--limit", type=int, default=600, help="seconds for one run of a peer")
parser.add_argument("--json", help="a file for all runs")
options = parser.parse_args()
FOREIGN = 0.05
DEPTH = options.depth
# Of each measure: what it is called, our arguments, our field, the peers' arguments, whether it is batched.
MEASURES = [
    ("read 512", ["--prompt", "512", "--generate", "1"], "prefill", ["-p", "512", "-n", "0"], False),
    ("read 4096", ["--prompt", "4096", "--generate", "1"], "prefill", ["-p", "4096", "-n", "0"], False),
    ("generate 48", ["--prompt", "1", "--generate", "48"], "decode", ["-p", "0", "-n", "48"], False),
    (f"generate 32 after {DEPTH}", ["--depth", str(DEPTH), "--prompt", "1", "--generate", "32"], "decode", ["-p", "0", "-n", "0"], False),
    ("8 sequences generate 48", ["--prompt", "64", "--generate", "48", "--batch", "8"], "decode", ["-npp", "64", "-ntg", "48", "-npl", "8"], True),
]


def busy():
    """CPU seconds of all processes since the start."""
    with open("/proc/stat") as file:
        fields = [int(f) for f in file.readline().split()[1:]]
    return sum(fields[:3] + fields[5:8]) / os.sysconf("SC_CLK_TCK")


def quiet(command, limit=None):
    """Output of a command, cores that others used meanwhile, and its seconds. Those of repeated runs do not count."""
    for _ in range(3):
        before, own, clock = busy(), resource.getrusage(resource.RUSAGE_CHILDREN), os.times().elapsed
        result = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
        seconds = os.times().elapsed - clock
        foreign = max(0.0, busy() - before - used) / max(seconds, 1e-9)
        if result.returncode:
            sys.exit(f"{shlex.join(command)}\n{result.stderr[-2000:]}")
        if foreign <= FOREIGN:
            break
    return result, foreign, seconds


def ours(arguments, field):
    command = [options.hadal, "bench", "infer", options.model, "--repeat", "1", "--speculation", "off", "--json", *arguments]
    out, foreign, _ = quiet(command + (["--weights", options.weights] if options.weights else []))
    found = json.loads(out.stdout.strip().splitlines()[-1])["results"][0]
    return found[field], foreign, found


def theirs(command, arguments, name, batched):
    command = shlex.split(command)
    if name.startswith("generate 32 after"):
        help_text = subprocess.run([command[0], "--help"], capture_output=True, text=True)
        # llama.cpp has a depth, ik_llama.cpp generates after a prompt.
        deep = "--n-depth" in help_text.stdout + help_text.stderr
        arguments = ["-p", "0", "-n", "32", "-d", str(DEPTH)] if deep else ["-p", "0", "-n", "0", "-gp", f"{DEPTH},32"]
    if batched:
        out, foreign, _ = quiet(command + arguments + ["--output-format", "jsonl"], options.limit)
        rows = [json.loads(line)["speed_tg"] for line in out.stdout.splitlines() if line.startswith("{")]
        # ik_llama.cpp prints a table; the eighth column is the rate.
        rows += [float(line.split("|")[8]) for line in out.stderr.splitlines() if line.startswith("|") and "." in line]
        return rows[-1], foreign
    out, foreign, _ = quiet(command + arguments + ["-r", "1", "-o", "json"], options.limit)
    return json.loads(out.stdout[out.stdout.index("["):])[-1]["avg_ts"], foreign


def start():
    """Seconds from the start of each program to its end, after one token."""
    # The prompt is the token that begins texts, so each program computes one token.
    commands = {"hadal": [options.hadal, "generate", options.model, "", "-n", "1", "--temperature", "0"]}
    for label, command in (peer.split("=", 1) for peer in options.peer):
        command = shlex.split(command)
        help_text = subprocess.run([command[0], "--help"], capture_output=True, text=True)
        warm_up = ["--no-warmup"] if "--no-warmup" in help_text.stdout + help_text.stderr else ["-w", "0"]
        commands[label] = [*command, "-p", "0", "-n", "1", "-r", "1", *warm_up]
    found = {label: [] for label in commands}
    # The first round warms the page cache.
    for number in range(options.rounds + 1):
        for label, command in commands.items():
            _, foreign, seconds = quiet(command, options.limit)
            print(f"start: {label} {seconds:.2f} s{'' if foreign <= FOREIGN else f' (others used {foreign:.2f} cores)'}", flush=True)
            if number > 0:
                found[label].append(seconds)
    return {label: statistics.median(seconds) for label, seconds in found.items()}


runs, medians = {}, {}
for name, own, field, arguments, batched in MEASURES:
    if options.measure and name not in options.measure:
        continue
    peers = [p.split("=", 1) for p in (options.batched if batched else options.peer)]
    found = {label: [] for label in ["hadal", *(label for label, _ in peers)]}
    for _ in range(options.rounds):
        rate, foreign, detail = ours(own, field)
        runs.setdefault(name, []).append(["hadal", rate, foreign, detail.get("weight_bytes_per_second"), detail.get("memory_bytes_per_second")])
        found["hadal"].append(rate)
        share = ""
        if detail.get("weight_bytes_per_second"):
            share = f", {detail['weight_bytes_per_second'] / 1e9:.1f} of {detail['memory_bytes_per_second'] / 1e9:.1f} GB/s"
        print(f"{name}: hadal {rate:.1f} tokens/s{share}{'' if foreign <= FOREIGN else f' (others used {foreign:.2f} cores)'}", flush=True)
        for label, command in peers:
            try:
                rate, foreign = theirs(command, arguments, name, batched)
            except subprocess.TimeoutExpired:
                print(f"{name}: {label} did not end in {options.limit} s", flush=True)
                continue
            runs[name].append([label, rate, foreign])
            found[label].append(rate)
            print(f"{name}: {label} {rate:.1f} tokens/s{'' if foreign <= FOREIGN else f' (others used {foreign:.2f} cores)'}", flush=True)
    medians[name] = {label: statistics.median(rates) for label, rates in found.items() if rates}
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"runs": runs, "medians": medians}, file, indent=1)
if not options.measure or "start" in options.measure:
    print("start: " + ", ".join(f"{label} {seconds:.2f} s" for label, seconds in start().items()))
for name, rates in medians.items():
    own = rates.pop("hadal")
    best = max(rates.items(), key=lambda item: item[1], default=None)
    beside = f", best peer {best[0]} {best[1]:.1f}, ratio {own / best[1]:.2f}" if best else ""
    print(f"{name}: hadal {own:.1f}{beside}; all: " + ", ".join(f"{label} {rate:.1f}" for label, rate in rates.items()))
