"""time_loading.py HADAL MODEL [ROUNDS]: how long a checkpoint takes to its first token, and how much memory.

Alternates `cat MODEL/*.safetensors > /dev/null` with `HADAL generate MODEL hello -n 1`, and prints the time of each, to the
last byte of the token, the ratio, and the largest resident memory. The first round only warms the page cache. Before each
start it takes as much fresh memory as the files need, on all cores, and prints the time: a lower bound for anything that
holds the weights in memory of its own. A virtual machine that returns free memory to its host may need seconds for it.
"""
import glob, mmap, multiprocessing, os, resource, statistics, subprocess, sys, time

hadal, model = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
files = sorted(glob.glob(os.path.join(model, "*.safetensors")))
size = sum(os.path.getsize(f) for f in files)
command = [hadal, "generate", model, "hello", "-n", "1", "--temperature", "0"]


def cat():
    begin = time.monotonic()
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin


def touch(share):
    memory = mmap.mmap(-1, share)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, share, 4096):
        memory[at] = 1


def fresh():
    cores = len(os.sched_getaffinity(0))
    tasks = [multiprocessing.Process(target=touch, args=(size // cores,)) for _ in range(cores)]
    begin = time.monotonic()
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
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
found = [(cat(), fresh(), generate()) for _ in range(rounds)]
for read, memory, first in found:
    print(f"cat {read:.2f} s, fresh memory {memory:.2f} s, first token {first:.2f} s, ratio {first / read:.2f}")
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
reads, memories, firsts = zip(*found)
ratio = statistics.median(f / r for r, _, f in found)
print(f"medians: cat {statistics.median(reads):.2f} s, fresh memory {statistics.median(memories):.2f} s, "
      f"first token {statistics.median(firsts):.2f} s, ratio {ratio:.2f}; peak {peak / 1e9:.2f} GB, {peak / size:.3f} of the files")
