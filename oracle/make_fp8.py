#!/usr/bin/env python3
"""Block-quantised weights as the released checkpoints have them, computed with PyTorch's float8 types:
crates/model/tests/fixtures/fp8.safetensors. Two ragged matrices, each with f32 and with power-of-two scales.

  X.weight                     f32, what is quantised
  X.FMT.codes                  its E4M3 codes (u8): nearest, ties to even
  X.FMT.scales                 one scale a block of 128x128: amax / 448, or the next power of two from there up
  X.FMT.values                 f32, code * scale
  all.values                   f32, the value of every code

usage: make_fp8.py OUT.safetensors"""
import sys

import torch
from safetensors.torch import save_file

BLOCK = 128


def per_element(scales, rows, cols):
    return scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :cols]


def quantise(w, powers_of_two):
    rows, cols = w.shape
    padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-cols // BLOCK) * BLOCK)
    padded[:rows, :cols] = w
    amax = padded.view(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).abs().amax((1, 3))
    scales = amax / 448.0
    if powers_of_two:
        scales = torch.exp2(torch.ceil(torch.log2(scales.double()))).float()
    scales[amax == 0] = 1.0
    codes = (w / per_element(scales, rows, cols)).to(torch.float8_e4m3fn)
    return codes, scales


def main(out):
    torch.manual_seed(11)
    # Wide ranges, so that subnormal codes and zeros of either sign occur.
    tall = torch.randn(130, 11) * torch.logspace(-5, 1, 130)[:, None]
    wide = torch.randn(7, 260) * torch.logspace(1, -3, 260)[None]
    wide[:, 128:256] = 0.0
    wide[3, 130] = -0.0
    tensors = {"all.values": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()}
    for name, w in (("tall", tall), ("wide", wide)):
        tensors[f"{name}.weight"] = w.contiguous()
        for fmt, powers_of_two in (("f32", False), ("ue8m0", True)):
            codes, scales = quantise(w, powers_of_two)
            tensors[f"{name}.{fmt}.codes"] = codes.contiguous().view(torch.uint8)
            tensors[f"{name}.{fmt}.scales"] = scales.contiguous()
            tensors[f"{name}.{fmt}.values"] = codes.float() * per_element(scales, *w.shape)
    save_file(tensors, out)


main(sys.argv[1])
