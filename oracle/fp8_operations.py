"""FP8 operations as training makes them, with PyTorch's float8 types: what make_fp8.py adds to its fixture.

  e5m2.in, .bits, .values      f32, their codes, the values of all 256 codes
  special.x                    f32 [8, 300]: a tile under 1e-4, zeros of either sign, one large tile, infinities, NaN
  special.FMT.codes, .scales   in tiles of 1x128; FMT: f32, ue8m0, e5m2 (f32 scales)
  columns.codes, .scales       `grid(1, 300, 20)` in tiles of 128x1, multiplied by the scale's reciprocal
  columns.ue8m0.codes, .scales the same with powers of two, of what is left of it in such tiles of 1x128
  dgrad.dy_codes, .dy_scales   `grid(2, 5, 260)` in tiles of 1x128
  dgrad.w_codes, .w_scales     `grid(3, 260, 140)` in blocks
  dgrad.out                    their product, sums over 128 scaled, in f64, rounded once
  wgrad.out                    [3, 24, 20]: `grid(4, 670, 24)`^T `grid(5, 670, 20)`, each in tiles of 128x1, over rows 0..600,
                               600..670 and none, in f64, rounded once

`grid(seed, rows, cols)` is made of integers, so that it is not stored: see there.

From 61440 on PyTorch's E5M2 is infinity, ours saturates; E4M3 saturates in both. A NaN makes PyTorch's whole tile NaN through its scale; ours leaves the scale at one, and only its own
code is NaN. Tiles with an infinity are the same: the scale is infinite, finite numbers are zero, infinities NaN."""
import torch

TILE = 128
E4M3 = (torch.float8_e4m3fn, 448.0)
E5M2 = (torch.float8_e5m2, 57344.0)


def grid(seed, rows, cols):
    """Numbers of 24 bits and sign below one, times 2^-6 .. 2^6 by row: exact in f32."""
    i = torch.arange(rows * cols, dtype=torch.int64)
    h = (i * 2654435761 + seed * 40503 + 12345) % 2**32
    h = ((h ^ (h >> 15)) * 73244475) % 2**32
    h = ((h ^ (h >> 13)) * 73244475) % 2**32
    x = ((h >> 7).double() / 2**24 - 1.0).view(rows, cols)
    powers = torch.arange(rows) * 5 % 13 - 6
    return (x * torch.exp2(powers.double())[:, None]).float()


def scales_of(amax, largest, powers_of_two):
    scales = amax / largest
    if powers_of_two:
        scales = torch.exp2(torch.ceil(torch.log2(scales.double()))).float()
    scales[amax == 0] = 1.0
    return scales


def in_tiles(x, form=E4M3, powers_of_two=False):
    """Codes and scales in tiles of 1x128."""
    rows, cols = x.shape
    padded = torch.nn.functional.pad(x, (0, -cols % TILE)).view(rows, -1, TILE)
    scales = scales_of(padded.abs().amax(2), form[1], powers_of_two)
    return (x / scales.repeat_interleave(TILE, 1)[:, :cols]).to(form[0]), scales


def in_columns(x, powers_of_two=False):
    """Codes and scales in tiles of 128x1."""
    rows, cols = x.shape
    padded = torch.nn.functional.pad(x, (0, 0, 0, -rows % TILE)).view(-1, TILE, cols)
    scales = scales_of(padded.abs().amax(1), E4M3[1], powers_of_two)
    return (x * (1.0 / scales).repeat_interleave(TILE, 0)[:rows]).to(E4M3[0]), scales


def in_blocks(w):
    rows, cols = w.shape
    padded = torch.nn.functional.pad(w, (0, -cols % TILE, 0, -rows % TILE))
    scales = scales_of(padded.view(-(-rows // TILE), TILE, -1, TILE).abs().amax((1, 3)), E4M3[1], False)
    wide = scales.repeat_interleave(TILE, 0)[:rows].repeat_interleave(TILE, 1)[:, :cols]
    return (w / wide).to(E4M3[0]), scales


def special():
    x = grid(9, 8, 300)
    x[0, :128] *= 2.0**-20  # under 1e-4, where inference (not training) holds the largest magnitude at 1e-4
    x[1, :128] = 0.0
    x[1, 128:200] = -0.0
    x[2, 5] = -0.0
    x[3, 128:256] *= 2.0**120
    x[4, 130] = float("inf")
    x[5, 299] = -float("inf")
    x[6, 7] = float("nan")
    x[7, 128:256] *= 2.0**-100
    return x


def operations():
    out = {}
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2).float()
    finite = values[:124]
    middles = (finite[1:] + finite[:-1]) / 2
    near = lambda v, to: torch.nextafter(v, torch.full_like(v, to))
    x = torch.cat([finite, middles, near(middles, 0.0), near(middles, 1e9), 2.0 ** torch.arange(-40.0, 15.0)])
    x = torch.cat([x, -x, torch.tensor([61439.0, 61440.0, 1e9, float("inf"), -float("inf"), float("nan")])])
    out |= {"e5m2.in": x, "e5m2.bits": x.to(torch.float8_e5m2), "e5m2.values": values}

    x = special()
    out["special.x"] = x
    for name, form, powers_of_two in (("f32", E4M3, False), ("ue8m0", E4M3, True), ("e5m2", E5M2, False)):
        out[f"special.{name}.codes"], out[f"special.{name}.scales"] = in_tiles(x, form, powers_of_two)

    x = grid(1, 300, 20)
    out["columns.codes"], out["columns.scales"] = in_columns(x)
    codes, scales = in_tiles(x, powers_of_two=True)
    back = codes.float() * scales
    out["columns.ue8m0.codes"], out["columns.ue8m0.scales"] = in_columns(back, powers_of_two=True)

    (dy, dy_scales), (w, w_scales) = in_tiles(grid(2, 5, 260)), in_blocks(grid(3, 260, 140))
    total = torch.zeros(5, 140, dtype=torch.float64)
    for t in range(3):
        part = slice(t * TILE, (t + 1) * TILE)
        factors = dy_scales[:, t].double()[:, None] * w_scales[t].double().repeat_interleave(TILE)[None, :140]
        total += dy[:, part].double() @ w[part].double() * factors
    out |= {"dgrad.dy_codes": dy, "dgrad.dy_scales": dy_scales, "dgrad.w_codes": w, "dgrad.w_scales": w_scales}
    out["dgrad.out"] = total.float()

    dy, x, groups = grid(4, 670, 24), grid(5, 670, 20), []
    for first, last in ((0, 600), (600, 670), (670, 670)):
        exact = [torch.zeros(0, m.shape[1]).double() for m in (dy, x)]
        if last > first:
            parts = [in_columns(m[first:last]) for m in (dy, x)]
            exact = [c.double() * s.double().repeat_interleave(TILE, 0)[: last - first] for c, s in parts]
        groups.append((exact[0].T @ exact[1]).float())
    out["wgrad.out"] = torch.stack(groups)
    return {k: (v if v.dtype == torch.float32 else v.view(torch.uint8)).contiguous() for k, v in out.items()}


def official(f):
    """A small part of a file made with the conventions of DeepSeek's inference code (its kernels' arithmetic restated in
    PyTorch): E4M3 codes, tiles of 1x128 (`amax` held at 1e-4 or more, which training does not do), blocks, the product."""
    some = torch.cat([torch.arange(0, 8001, 4), torch.arange(8001, len(f["e4m3.in"]))])
    out = {"e4m3.in": f["e4m3.in"][some], "e4m3.bits": f["e4m3.bits"][some], "e4m3.values": f["e4m3.all_values"]}
    out |= {f"act.{k}": f[f"a.{v}"] for k, v in (("x", "f32"), ("bits", "bits"), ("scales", "scale"))}
    out |= {"act.ue8m0.bits": f["a.ue8m0.bits"], "act.ue8m0.scales": f["a.ue8m0.scale"]}
    # The last, ragged column of blocks.
    out |= {"block.w": f["w.f32"][:, 384:], "block.bits": f["w.bits"][:, 384:], "block.scales": f["w.scale_inv"][:, 3:]}
    out |= {"block.values": f["w.deq"][200:, 384:]}
    out |= {"gemm.w_bits": f["gemm.w.bits"], "gemm.w_scales": f["gemm.w.scale_inv"], "gemm.out": f["gemm.out"]}
    return {f"official.{k}": v.contiguous() for k, v in out.items()}
