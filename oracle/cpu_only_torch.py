#!/usr/bin/env python3
"""Lets PyPI's Linux wheel of torch (built for CUDA) be imported on a machine without any CUDA library.

The wheel is linked against CUDA libraries that come as separate packages of several gigabytes. Nothing in
them is needed for work on the CPU, yet the dynamic loader insists on the files. This script writes
one small shared library for each missing name, exporting exactly the symbols the wheel asks for; each
function returns 35 (cudaErrorInsufficientDriver), so `torch.cuda.is_available()` is False as it should be.

usage: python cpu_only_torch.py      (needs gcc and readelf; touches only torch's own folder of this environment)
"""
import collections
import glob
import importlib.util
import os
import re
import subprocess
import sys
import tempfile

LIBS = os.path.join(os.path.dirname(importlib.util.find_spec("torch").origin), "lib")
FOREIGN = re.compile(r"lib(?!cuda\.)(cu|nv|nccl)[A-Za-z_]*\.so\.\d+")


def readelf(*args):
    return subprocess.run(["readelf", "-W", *args], check=True, capture_output=True, text=True).stdout


def is_stub(path):
    return os.path.getsize(path) < 100_000


def main():
    needed, wanted = set(), collections.defaultdict(dict)  # wanted: library -> symbol -> (version, is data)
    unversioned = {}
    defined = set()
    for so in glob.glob(LIBS + "/*.so"):
        mine = [n for n in re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("-d", so)) if FOREIGN.fullmatch(n)]
        needed.update(mine)
        # Version index -> library, from the version-needs table.
        owner, lib = {}, None
        for line in readelf("-V", so).splitlines():
            if m := re.search(r"File: (\S+)", line):
                lib = m[1]
            elif m := re.search(r"Name: (\S+)\s+Flags: \S+\s+Version: (\d+)", line):
                owner[m[1], m[2]] = lib
        for line in readelf("--dyn-syms", so).splitlines():
            f = line.split()
            if len(f) < 8 or not f[0].rstrip(":").isdigit():
                continue
            kind, ndx, name = f[3], f[6], f[7]
            base = name.split("@")[0]
            if ndx != "UND":
                defined.add(base)
            elif m := re.fullmatch(r"([^@]+)@(\S+)", name):
                libs = {v for (n, _), v in owner.items() if n == m[2]}
                for one in libs:
                    if FOREIGN.fullmatch(one):
                        wanted[one][m[1]] = (m[2], kind == "OBJECT")
            elif f[4] == "GLOBAL" and re.match(r"(cu|nv|nccl|_?_cu)", base):
                unversioned[base] = kind == "OBJECT"
    loose = {s: d for s, d in unversioned.items() if s not in defined}
    for lib in sorted(needed):
        if os.path.exists(f"{LIBS}/{lib}") and not is_stub(f"{LIBS}/{lib}"):
            continue
        syms = {s: ("", d) for s, d in loose.items()} if lib == "libcudart.so.13" or lib.startswith("libcudart") else {}
        syms.update(wanted[lib])
        with tempfile.TemporaryDirectory() as tmp:
            versions = collections.defaultdict(list)
            with open(tmp + "/stub.c", "w") as c:
                for s, (ver, data) in sorted(syms.items()):
                    if not re.fullmatch(r"[A-Za-z_]\w*", s):
                        continue
                    if data:
                        c.write(f"char {s}[4096];\n")
                    elif re.search(r"Get\w*(String|Name)$", s):
                        c.write(f'const char *{s}(void) {{ return "no CUDA library here"; }}\n')
                    else:
                        c.write(f"int {s}(void) {{ return 35; }}\n")
                    if ver:
                        versions[ver].append(s)
            cmd = ["gcc", "-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{lib}", "-o", f"{LIBS}/{lib}", tmp + "/stub.c"]
            if versions:
                with open(tmp + "/stub.map", "w") as m:
                    for ver, names in versions.items():
                        m.write(f"{ver} {{ global: {'; '.join(names)}; }};\n")
                cmd.insert(1, f"-Wl,--version-script={tmp}/stub.map")
            subprocess.run(cmd, check=True)
        print(f"{lib}: {len(syms)} symbols")


if __name__ == "__main__":
    sys.exit(main())
