#!/usr/bin/env python3
"""Block-quantised weights as the released checkpoints have them, computed with PyTorch's float8 types:
crates/model/tests/fixtures/fp8.safetensors. Two ragged matrices, each with f32 and with power-of-two scales.

  X.weight                     f32, what is quantised
  X.FMT.codes                  its E4M3 codes (u8): nearest, ties to even
  X.FMT.scales                 one scale a block of 128x128: amax / 448, or the next power of two from there up
  X.FMT.values                 f32, code * scale
  all.values                   f32, the value of every code
  act.x                        f32 activations; act.FMT.codes, act.FMT.scales: in tiles of 1x128, as for weights
  product.codes, .scales       a weight in blocks; product.out: act.f32 times it, sums over 128 scaled, in f64, rounded once
  e5m2., special., columns., dgrad., wgrad.   operations of training: fp8_operations.py
  official.                    a part of FILE, which holds results by the conventions of DeepSeek's inference code; without FILE
                               what OUT has of it is kept

usage: make_fp8.py OUT.safetensors [FILE.safetensors]"""
import os
import sys

import torch
from fp8_operations import official, operations
from safetensors.torch import load_file, save_file

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


def tiles_of(w):
    return torch.nn.functional.pad(w, (0, -w.shape[1] % BLOCK)).view(w.shape[0], -1, BLOCK)


def kept(out, source):
    if source:
        return official(load_file(source))
    there = load_file(out) if os.path.exists(out) else {}
    return {k: v for k, v in there.items() if k.startswith("official.")}


def main(out, source=None):
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
    # Rows of very different size, one tile of zeros, a ragged last tile.
    x = torch.randn(6, 300) * torch.tensor([1e-3, 0.1, 1.0, 7.0, 300.0, 1e4])[:, None]
    x[2, :128] = 0.0
    tensors["act.x"] = x
    tiles = lambda t: torch.nn.functional.pad(t, (0, 84)).view(6, 3, BLOCK)
    for fmt, powers_of_two in (("f32", False), ("ue8m0", True)):
        scales = tiles(x).abs().amax(2) / 448.0
        if powers_of_two:
            scales = torch.exp2(torch.ceil(torch.log2(scales.double()))).float()
        scales[scales == 0] = 1.0
        codes = (x / scales.repeat_interleave(BLOCK, 1)[:, :300]).to(torch.float8_e4m3fn)
        tensors[f"act.{fmt}.codes"] = codes.contiguous().view(torch.uint8)
        tensors[f"act.{fmt}.scales"] = scales.contiguous()
        if not powers_of_two:
            w, w_scales = quantise(torch.randn(70, 300) * 0.02, False)
            sums = torch.einsum("tbk,nbk->tbn", tiles(codes.double()), tiles_of(w.double()))
            product = sums * scales.double()[:, :, None] * w_scales.double()[0][None, :, None]
            tensors["product.codes"] = w.contiguous().view(torch.uint8)
            tensors["product.scales"] = w_scales.contiguous()
            tensors["product.out"] = product.sum(1).float()
    tensors |= operations()
    save_file(tensors | kept(out, source), out)


main(*sys.argv[1:])
