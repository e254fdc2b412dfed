"""time_loading.py HADAL MODEL [ROUNDS]: how long a checkpoint takes to its first token, and how much memory.

Alternates `cat MODEL/*.safetensors > /dev/null` with `HADAL generate MODEL hello -n 1`, and prints the time of each, to the
last byte of the token, the ratio, and the largest resident memory. The first round only warms the page cache.
"""
import glob, os, resource, statistics, subprocess, sys, time

hadal, model = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
files = sorted(glob.glob(os.path.join(model, "*.safetensors")))
size = sum(os.path.getsize(f) for f in files)
command = [hadal, "generate", model, "hello", "-n", "1", "--temperature", "0"]


def cat():
    begin = time.monotonic()
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin


def generate():
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    last = None
    while process.stdout.read(1):
        last = time.monotonic() - begin
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} failed")
    return last


cat()
generate()
pairs = [(cat(), generate()) for _ in range(rounds)]
for read, first in pairs:
    print(f"cat {read:.2f} s, first token {first:.2f} s, ratio {first / read:.2f}")
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
reads, firsts = zip(*pairs)
print(f"medians: cat {statistics.median(reads):.2f} s, first token {statistics.median(firsts):.2f} s, "
      f"ratio {statistics.median(f / r for r, f in pairs):.2f}; peak {peak / 1e9:.2f} GB, {peak / size:.3f} of the files")
