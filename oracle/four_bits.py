"""four_bits.py HADAL MODEL LIBGGML TEXT...: 4-bit schemes compared by what they do to a model's predictions.

LIBGGML is llama.cpp's `libggml-base.so` or ik_llama.cpp's `libggml.so`. Each of its schemes quantises every matrix of a
trained checkpoint (but embedding, norms and router), and the values go into a checkpoint in F32. `hadal eval --against`
gives the KL divergence from the original. Beside them: `hadal eval --weights int4 --attention-weights int4` and int8, which
round the inputs of products to eight bits as well. The number of columns of each matrix must be a multiple of 256.
"""
import ctypes, json, math, os, shutil, subprocess, sys, tempfile
import torch
from safetensors.torch import load_file, save_file

hadal, model, library = sys.argv[1:4]
text = sys.argv[4:]
ggml = ctypes.CDLL(library)


class Traits(ctypes.Structure):
    """The head of ggml_type_traits, which both libraries share."""
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64),
                ("size", ctypes.c_size_t), ("quantised", ctypes.c_bool), ("to_float", ctypes.c_void_p)]


ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
ggml.ggml_row_size.restype = ctypes.c_size_t
ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
ggml.ggml_type_name.restype = ctypes.c_char_p
widen = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def to_float(kind):
    if hasattr(ggml, "ggml_get_type_traits"):
        ggml.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
        return widen(ggml.ggml_get_type_traits(kind).contents.to_float)
    raise SystemExit(f"{library} has no ggml_get_type_traits")


def rounded(w, kind):
    """The values of a matrix after it was quantised."""
    w = w.float().contiguous()
    rows, cols = w.shape
    packed = ctypes.create_string_buffer(ggml.ggml_row_size(kind, cols) * rows)
    out = torch.empty_like(w)
    call = [ctypes.c_int(kind), ctypes.c_void_p(w.data_ptr()), packed, ctypes.c_int64(0), ctypes.c_int64(rows),
            ctypes.c_int64(cols), None]
    ggml.ggml_quantize_chunk(*call)
    to_float(kind)(ctypes.addressof(packed), out.data_ptr(), rows * cols)
    return out


def bits(kind):
    return 8 * ggml.ggml_row_size(kind, 256) / 256


def evaluate(folder, *options):
    run = subprocess.run([hadal, "eval", folder, *text, "--against", model, "--json", *options], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return json.loads(run.stdout)


def line(name, per_weight, found):
    d = found["against"]
    ratio = math.exp(d["loss"] - d["reference_loss"])
    print(f"| {name} | {per_weight:.2f} | {d['kl']:.5f} | {ratio:.4f} | {100 * d['same_top']:.1f}% |", flush=True)


print("| scheme | bits per weight | KL | perplexity ratio | same first token |\n| --- | --- | --- | --- | --- |")
tensors = load_file(os.path.join(model, "model.safetensors"))
skipped = ("embed_tokens", "norm", ".gate.weight", "bias")
for kind in (2, 12, 20, 23):  # Q4_0, Q4_K, IQ4_NL, IQ4_XS
    with tempfile.TemporaryDirectory() as folder:
        for file in os.listdir(model):
            if not file.endswith(".safetensors"):
                shutil.copy(os.path.join(model, file), folder)
        new = {n: t if any(s in n for s in skipped) else rounded(t, kind) for n, t in tensors.items()}
        save_file(new, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        line(ggml.ggml_type_name(kind).decode(), bits(kind), evaluate(folder, "--dtype", "f32"))
line("hadal int4", 4.5, evaluate(model, "--weights", "int4", "--attention-weights", "int4"))
line("hadal int4, attention and head int8 (the default)", 4.5, evaluate(model, "--weights", "int4"))
line("hadal int8", 8.5, evaluate(model, "--weights", "int8"))
