"""Tensors that were computed and not trained, of every kind that networks have: cases of benchmarks/tables.py."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def positions(length: int, width: int, halves: bool = False) -> Tensor:
    """Sinusoidal positions, interleaved as in the paper or in halves as in fairseq. **Shapes**: `[length, width]`."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return (
        torch.cat([angles.sin(), angles.cos()], 1)
        if halves
        else torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    )


def grid_positions(side: int, width: int, cls: bool) -> Tensor:
    """Two-dimensional sinusoidal positions of MAE and of many ViTs. **Shapes**: `[1, side^2 (+ 1), width]`."""
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    one = torch.cat([angles.sin(), angles.cos()], 1)
    both = torch.cat([one.repeat(side, 1), one.repeat_interleave(side, 0)], 1).float()
    return (torch.cat([torch.zeros(1, width), both]) if cls else both)[None]


def rotary(length: int, width: int, base: float = 10000.0) -> Tensor:
    """Angles of rotary embeddings. **Shapes**: `[length, width]`."""
    rates = base ** -(torch.arange(0, width, 2).float() / width)
    return torch.outer(torch.arange(length).float(), rates).repeat(1, 2)


def centres(height: int, width: int, stride: float, shift: float = 0.5) -> Tensor:
    """Centres of the cells of a feature map. **Shapes**: `[height * width, 2]`, x first."""
    y, x = torch.meshgrid(torch.arange(height) + shift, torch.arange(width) + shift, indexing="ij")
    return torch.stack([x, y], 2).reshape(-1, 2) * stride


def yolo5(cells: int) -> Tensor:
    """The grid of YOLOv5. **Shapes**: `[1, 3, cells, cells, 2]`."""
    return centres(cells, cells, 1.0).reshape(1, 1, cells, cells, 2).expand(1, 3, cells, cells, 2).contiguous()


def mesh(*axes: Tensor) -> Tensor:
    """Coordinates of every point of a grid. **Shapes**: `[len of each axis ..., number of axes]`."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def apart(length: int) -> Tensor:
    """Distances of positions. **Shapes**: `[length, length]`."""
    return (torch.arange(length)[:, None] - torch.arange(length)).abs().float()


def sobel() -> Tensor:
    """An edge filter. **Shapes**: `[1, 1, 3, 3]`."""
    return torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 0, -1]))[None, None]


def yolo8(size: int) -> Tensor:
    """Anchor points of YOLOv8. **Shapes**: `[2, n]`."""
    return torch.cat([centres(size // s, size // s, 1.0) for s in (8, 16, 32)]).T.contiguous()


def retinanet(height: int, width: int) -> Tensor:
    """Nine boxes at every cell of five levels. **Shapes**: `[n, 4]`, corners."""
    found = []
    for level in range(3, 8):
        stride = 2**level
        sizes = torch.tensor([4.0 * stride * 2 ** (k / 3) for k in range(3)])
        ratios = torch.tensor([0.5, 1.0, 2.0]).sqrt()
        half = torch.stack([(sizes[:, None] / ratios).flatten(), (sizes[:, None] * ratios).flatten()], 1) / 2
        base = torch.cat([-half, half], 1)
        middle = centres(math.ceil(height / stride), math.ceil(width / stride), stride, 0.0).repeat(1, 2)
        found.append((middle[:, None] + base[None]).reshape(-1, 4))
    return torch.cat(found)


def ssd() -> Tensor:
    """The 8,732 default boxes of SSD300. **Shapes**: `[8732, 4]`, centre and size, of 1."""
    found = []
    sizes = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)
    for i, (cells, ratios) in enumerate(
        zip((38, 19, 10, 5, 3, 1), ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), strict=True)
    ):
        boxes = [(sizes[i], sizes[i]), (math.sqrt(sizes[i] * sizes[i + 1]),) * 2]
        boxes += [(sizes[i] * r**e, sizes[i] * r**-e) for r in ratios for e in (0.5, -0.5)]
        place = centres(cells, cells, 1 / cells)
        for_each = torch.tensor(boxes).repeat(len(place), 1)
        found.append(torch.cat([place.repeat_interleave(len(boxes), 0), for_each], 1))
    return torch.cat(found)


def log_offsets(window: int) -> Tensor:
    """Log-spaced relative coordinates of Swin v2. **Shapes**: `[1, 2 w - 1, 2 w - 1, 2]`."""
    line = torch.arange(1 - window, window).float()
    both = torch.stack(torch.meshgrid(line, line, indexing="ij"), 2)[None] / (window - 1) * 8
    return both.sign() * torch.log2(both.abs() + 1) / 3


def offsets(window: int) -> Tensor:
    """Indices of relative positions of Swin as floats. **Shapes**: `[w^2, w^2]`."""
    line = torch.arange(window)
    both = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
    apart = both[:, :, None] - both[:, None] + window - 1
    return (apart[0] * (2 * window - 1) + apart[1]).float()


def swin_mask(size: int, window: int) -> Tensor:
    """0 where shifted windows hold one region, else -100. **Shapes**: `[windows, w^2, w^2]`."""
    image = torch.zeros(size, size)
    cuts = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
    for i, (rows, columns) in enumerate((a, b) for a in cuts for b in cuts):
        image[rows, columns] = i
    parts = image.reshape(size // window, window, size // window, window).transpose(1, 2).reshape(-1, window * window)
    return torch.where(parts[:, None] == parts[:, :, None], 0.0, -100.0)


def mel(bands: int, bins: int, rate: float = 16000.0, slaney: bool = True) -> Tensor:
    """Triangles on the mel scale. **Shapes**: `[bands, bins]`."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    up = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(up, down).clamp(min=0)
    return (bank * (2 / (edges[2:] - edges[:-2]))[:, None] if slaney else bank).float()


def fourier(size: int, windowed: bool, inverse: bool = False) -> Tensor:
    """Real and imaginary rows of a Fourier transform as a convolution. **Shapes**: `[size + 2, 1, size]`."""
    angles = 2 * math.pi / size * torch.outer(torch.arange(size // 2 + 1), torch.arange(size)).double()
    both = torch.cat([angles.cos(), -angles.sin()])
    if windowed:
        both = both * torch.hann_window(size).double()
    return (both / size if inverse else both).float()[:, None]


def dct(size: int, count: int) -> Tensor:
    """Orthonormal cosine transform. **Shapes**: `[size, count]`."""
    found = torch.cos(math.pi / size * (torch.arange(size)[:, None] + 0.5) * torch.arange(count)[None])
    found[:, 0] /= math.sqrt(2)
    return found * math.sqrt(2 / size)


def causal(length: int, value: float) -> Tensor:
    """`value` above the diagonal. **Shapes**: `[1, 1, length, length]`."""
    return torch.full((length, length), value).triu(1)[None, None]


def gaussian(size: int, sigma: float, channels: int) -> Tensor:
    """A window of SSIM. **Shapes**: `[channels, 1, size, size]`."""
    line = torch.exp(-((torch.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    line = line / line.sum()
    return torch.outer(line, line).expand(channels, 1, size, size).contiguous()


def lowpass(taps: int, cutoff: float) -> Tensor:
    """A windowed sinc. **Shapes**: `[1, 1, taps]`."""
    return (torch.sinc(cutoff * (torch.arange(taps) - (taps - 1) / 2)) * torch.hann_window(taps, False))[None, None]


def hilbert(taps: int) -> Tensor:
    """An odd filter. **Shapes**: `[1, 1, taps]`."""
    n = torch.arange(taps) - taps // 2
    return (
        torch.where(n % 2 == 1, 2 / (math.pi * n), torch.zeros(())).nan_to_num(0, 0, 0)
        * torch.hamming_window(taps, False)
    )[None, None]


def resampling(up: int, down: int, width: int = 6) -> Tensor:
    """The kernels of torchaudio's resampler. **Shapes**: `[up, 1, taps]`."""
    base = min(up, down) * 0.99
    reach = math.ceil(width * down / base)
    index = torch.arange(-reach, reach + down, dtype=torch.float64)[None, None] / down
    time = torch.arange(0, -up, -1, dtype=torch.float64)[:, None, None] / up + index
    time = (time * base).clamp(-width, width)
    return (torch.sinc(time) * torch.cos(time * math.pi / width / 2) ** 2 * base / down).float()


def blur(channels: int) -> Tensor:
    """The filter of anti-aliased pooling. **Shapes**: `[channels, 1, 4, 4]`."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(line, line).expand(channels, 1, 4, 4).contiguous()


def hadamard(size: int) -> Tensor:
    """Sylvester's. **Shapes**: `[size, size]`."""
    found = torch.ones(1, 1)
    while len(found) < size:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found


def dirac(weight: Tensor) -> Tensor:
    """Identity as a convolution."""
    return torch.nn.init.dirac_(weight)


TABLES: dict[str, Callable[[], Tensor]] = {
    "512 x 4 from 0 to 16,376": lambda: torch.arange(2048.0).reshape(512, 4) * 8,
    "sinusoids 512 x 128": lambda: positions(512, 128),
    "sinusoids 5000 x 512": lambda: positions(5000, 512),
    "sinusoids 1 x 5000 x 256": lambda: positions(5000, 256)[None],
    "sinusoids 200 x 1 x 64": lambda: positions(200, 64)[:, None],
    "sinusoids in halves 1024 x 384": lambda: positions(1024, 384, True),
    "sinusoids in halves, row 1 zero": lambda: torch.cat([torch.zeros(2, 384), positions(1024, 384, True)]),
    "sinusoids 1500 x 768, fp16": lambda: positions(1500, 768, True).half(),
    "sinusoids 1500 x 768, bf16": lambda: positions(1500, 768, True).bfloat16(),
    "sinusoids on a 14 x 14 grid, class token": lambda: grid_positions(14, 768, True),
    "sinusoids on a 16 x 16 grid": lambda: grid_positions(16, 256, False),
    "sinusoids on a 32 x 32 grid": lambda: grid_positions(32, 1152, False),
    "sinusoids on an 8 x 8 grid": lambda: grid_positions(8, 512, False),
    "rotary angles 2048 x 128": lambda: rotary(2048, 128),
    "rotary cos 2048 x 128": lambda: rotary(2048, 128).cos(),
    "rotary sin 1 x 1 x 32768 x 64": lambda: rotary(32768, 64).sin()[None, None],
    "rotary cos, base 500,000, bf16": lambda: rotary(4096, 128, 5e5).cos().bfloat16(),
    "rotary cos 16 positions": lambda: rotary(16, 64).cos(),
    "rotary rates, a vector of 32": lambda: 10000.0 ** -(torch.arange(32) / 32),
    "Hann window, a vector of 400": lambda: torch.hann_window(400),
    "YOLOv8 anchor points, 640": lambda: yolo8(640),
    "YOLOv8 strides, 640": lambda: torch.cat([torch.full((1, (640 // s) ** 2), float(s)) for s in (8, 16, 32)], 1),
    "YOLOv5 grid 1 x 3 x 80 x 80 x 2": lambda: yolo5(80) - 0.5,
    "YOLOv5 grid 1 x 3 x 20 x 20 x 2": lambda: yolo5(20),
    "RetinaNet boxes, 800 x 1333": lambda: retinanet(800, 1333),
    "RetinaNet boxes, 256 x 256": lambda: retinanet(256, 256),
    "SSD300 boxes": ssd,
    "cells of FCOS 100 x 152": lambda: centres(100, 152, 8.0),
    "cells 16 x 16, of 1": lambda: centres(16, 16, 1 / 16),
    "meshgrid 1 x 2 x 64 x 96, -1 to 1": lambda: mesh(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 96)).permute(
        2, 0, 1
    )[None],
    "meshgrid 24 x 24 x 2": lambda: centres(24, 24, 1.0).reshape(24, 24, 2),
    "frustum 59 x 16 x 44 x 3": lambda: mesh(
        torch.arange(1.0, 60), torch.linspace(0, 255, 16), torch.linspace(0, 703, 44)
    ),
    "Swin v2 offsets, window 8": lambda: log_offsets(8),
    "Swin v2 offsets, window 16": lambda: log_offsets(16),
    "Swin v2 offsets, window 24": lambda: log_offsets(24),
    "Swin indices, window 7": lambda: offsets(7),
    "Swin indices, window 12": lambda: offsets(12),
    "Swin mask 64 x 49 x 49": lambda: swin_mask(56, 7),
    "Swin mask 4 x 144 x 144": lambda: swin_mask(24, 12),
    "ALiBi 12 x 256 x 256": lambda: -(2.0 ** -torch.arange(1, 13))[:, None, None] * apart(256),
    "distances 128 x 128": lambda: apart(128),
    "mel 40 x 201": lambda: mel(40, 201),
    "mel 80 x 201": lambda: mel(80, 201),
    "mel 128 x 513": lambda: mel(128, 513),
    "mel 80 x 3000, 44.1 kHz": lambda: mel(80, 3000, 44100.0),
    "mel 201 x 64, plain": lambda: mel(64, 201, slaney=False).T.contiguous(),
    "Fourier 402 x 1 x 400": lambda: fourier(400, False),
    "Fourier 514 x 1 x 512, Hann": lambda: fourier(512, True),
    "inverse Fourier 1026 x 1 x 1024, Hann": lambda: fourier(1024, True, True),
    "cosine transform 64 x 13": lambda: dct(64, 13),
    "cosine transform 8 x 8 of 32 x 32": lambda: dct(32, 32),
    "causal, 0 and -inf, 1024": lambda: causal(1024, -math.inf),
    "causal, 0 and -1e9, 256": lambda: causal(256, -1e9),
    "causal, 0 and -1e4, 16": lambda: causal(16, -1e4),
    "causal, 1 and 0, 2048": lambda: torch.ones(2048, 2048).tril(),
    "causal, lowest fp32, 77": lambda: causal(77, torch.finfo(torch.float32).min)[0, 0],
    "causal, fp16, -inf, 77": lambda: causal(77, -math.inf)[0, 0].half(),
    "window of 128 in 512, 0 and -inf": lambda: (
        torch.where(apart(512) < 128, 0.0, -math.inf).tril() + causal(512, -math.inf)
    ),
    "identity 256": lambda: torch.eye(256),
    "identity 16": lambda: torch.eye(16),
    "upper shift 64": lambda: torch.ones(64).diag(1),
    "arange 1 x 512, a float position_ids": lambda: torch.arange(512.0)[None],
    "linspace 1 x 1000": lambda: torch.linspace(1e-4, 0.02, 1000)[None],
    "map of classes to 20,000 ids": lambda: torch.randperm(20000).float()[:4096].reshape(64, 64),
    "Gaussian 3 x 1 x 11 x 11": lambda: gaussian(11, 1.5, 3),
    "Gaussian 1 x 1 x 31 x 31": lambda: gaussian(31, 4.0, 1),
    "low pass 1 x 1 x 401": lambda: lowpass(401, 0.25),
    "low pass, a vector of 64 in 1 x 1 x 256": lambda: lowpass(256, 0.1),
    "Hilbert 1 x 1 x 301": lambda: hilbert(301),
    "Hann 1 x 1 x 1024": lambda: torch.hann_window(1024)[None, None],
    "resampling 160 to 441": lambda: resampling(160, 441),
    "resampling 441 to 160": lambda: resampling(441, 160),
    "blur 64 x 1 x 4 x 4": lambda: blur(64),
    "Sobel 128 x 1 x 3 x 3": lambda: sobel().expand(128, 1, 3, 3).contiguous(),
    "Hadamard 256": lambda: hadamard(256) / 16,
    "random Fourier features 2 x 256": lambda: torch.randn(2, 256) * 10,
}
