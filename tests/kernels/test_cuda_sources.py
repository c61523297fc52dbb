"""The CUDA kernel, without a GPU: emulated thread by thread under sanitizers, and compiled for real devices."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels import cuda, gpu, planes
from clisonix.kernels.planes import Layout
from clisonix.kernels.planes_reference import pack_bits

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ to build the emulation with")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the CUDA sources with")

Emulation = Callable[..., None]


def build(folder: Path, sanitizer: str, *options: str, source: str | None = None) -> Path:
    """The emulation of `source`, or of the kernel as it is."""
    folder.mkdir(exist_ok=True)
    (folder / "packed.cu").write_text(source or cuda.SOURCE.read_text())
    program = folder / "emulation"
    command = [str(COMPILER), "-std=c++17", "-O0", "-g1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", *options, f"-I{folder}"]
    done = subprocess.run(
        [*command, "-o", str(program), str(HERE / "cuda_emulation.cpp")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return program


def emulated(program: Path, seed: int = 0) -> Emulation:
    """A stand-in for `cuda.launch`: the same launch in `program`, with its threads in an order drawn from `seed`."""

    def launch(work: cuda.Launch) -> None:
        sizes = [-1 if tensor is None else tensor.nbytes for tensor in work.tensors]
        variant = work.variant
        shape = [variant.planes, variant.tiles, variant.align, work.grid, work.threads, work.shared_bytes, *sizes]
        case = program.parent / "case"
        with case.open("wb") as file:
            file.write(struct.pack(f"<{len(shape) + len(work.numbers)}q", *shape, *work.numbers))
            for tensor in work.tensors:
                if tensor is not None:
                    file.write(bytes(tensor.contiguous().view(torch.uint8).flatten().tolist()))
        # Without randomised addresses, which the thread sanitizer of some systems cannot map.
        command = ["setarch", "-R", str(program)] if shutil.which("setarch") else [str(program)]
        done = subprocess.run([*command, str(case), str(seed)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        out = work.tensors[4]
        out.copy_(torch.frombuffer(bytearray(case.read_bytes()), dtype=out.dtype).view(out.shape))

    return launch


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("address"), "address,undefined")


@pytest.fixture
def emulation(program: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuda, "launch", emulated(program))
    monkeypatch.setattr(cuda, "limits_of", lambda device: cuda.Limits(4, 1 << 17))
    return program


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def matrix(m: int, n: int, bits: int) -> tuple[Tensor, Tensor, int]:
    """Packed codes, their levels, and the step of the levels; 1 is taken off."""
    codes = torch.randint(0, 2**bits, (m, n), generator=torch.Generator().manual_seed(m), dtype=torch.uint8)
    step = 2 if bits == 1 else 1
    return torch.stack([pack_bits((codes >> plane) & 1) for plane in range(bits)]), codes.double() * step - 1, step


# batch, m, n, bits, type of the vectors, warps (down, across): every variant that the emulation builds.
CASES = [
    (1, 33, 1152, 1, torch.float32, None),
    (2, 70, 640, 1, torch.bfloat16, (2, 1)),
    (2, 70, 1100, 2, torch.float16, (1, 3)),
    (1, 40, 7, 2, torch.float32, None),
    (3, 40, 96, 1, torch.float16, None),
    (8, 33, 2080, 1, torch.float32, (2, 2)),
    (16, 35, 527, 1, torch.float32, (1, 2)),
    (7, 5, 128, 2, torch.bfloat16, None),
    (16, 20, 1056, 2, torch.float32, (2, 2)),
]


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_exact_sums_of_rounded_vectors(emulation: Path, case: tuple[int, ...]) -> None:
    batch, m, n, bits, dtype, layout = case
    planes_of, levels, step = matrix(m, n, bits)
    x, a, c = randn(batch, n, dtype=dtype), randn(m, dtype=dtype), randn(n, dtype=dtype)  # type: ignore[arg-type]
    ours = cuda.packed_product(
        x, planes_of, n, step=step, offset=1, row_scales=a, column_scales=c, out_dtype=torch.float32, layout=layout
    )
    scaled = x.float() * c.float()
    unit = 2.0 ** (torch.frexp(scaled.abs().max(1, keepdim=True).values).exponent.double() - 22)
    rounded = torch.round(scaled.double() / unit) * unit
    exact = ((rounded @ levels.T).float() * a.float()).double()
    # The sums are exact; only the conversion at the end and the scale round, and torch's matrix product a little.
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-9)
    error = (ours.double() - (scaled.double() @ levels.T) * a.double()).abs()
    bound = n * levels.abs().max() * unit * a.double().abs() + 1e-6 * exact.abs()
    assert bool((error <= bound).all())


@needs_compiler
def test_no_order_of_threads_or_shape_of_a_block_changes_a_bit(
    emulation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes_of, _, step = matrix(70, 2048, 1)
    x = randn(2, 2048)
    results = []
    for seed, layout, shared in ((0, (1, 1), 1 << 17), (1, (2, 4), 1 << 17), (2, (4, 2), 3 * 1024 * 6 + 9000)):
        monkeypatch.setattr(cuda, "launch", emulated(emulation, seed))
        # The last leaves room for a part of the vectors only, so that they are prepared in several goes.
        monkeypatch.setattr(cuda, "limits_of", lambda device, shared=shared: cuda.Limits(4, shared))
        results.append(cuda.packed_product(x, planes_of, 2048, step=step, offset=1, layout=layout))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_compiler
def test_what_is_not_finite_stays_in_its_row(emulation: Path) -> None:
    planes_of, levels, step = matrix(33, 512, 1)
    x = randn(2, 512)
    clean = cuda.packed_product(x, planes_of, 512, step=step, offset=1)
    for bad in (float("inf"), float("nan")):
        x[0, 3] = bad
        ours = cuda.packed_product(x, planes_of, 512, step=step, offset=1)
        assert bool(ours[0].isnan().all())
        assert torch.equal(ours[1], clean[1])
    for size in (0.0, 1e-42, 1e-20, 1e30):
        small = randn(1, 512) * size
        ours = cuda.packed_product(small, planes_of, 512, step=step, offset=1)
        torch.testing.assert_close(ours.double(), small.double() @ levels.T, rtol=1e-3, atol=1e-33 + 3e-5 * size)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_operators_are_the_reference_products(emulation: Path, dtype: torch.dtype) -> None:
    s1, s2 = pack_bits(randn(40, 128) >= 0), pack_bits(randn(128, 256, seed=1) >= 0)
    x, a, b, c = (randn(*size, dtype=dtype) for size in ((2, 256), (40,), (128,), (256,)))
    ours = torch.ops.clisonix.double_binary_cuda(x, a, s1, b, s2, c)
    wide = [t.double() for t in (x, a, b, c)]
    theirs = gpu.double_binary(wide[0], wide[1], s1, wide[2], s2, wide[3])
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=4 * tolerance * float(theirs.abs().max()))
    layout = Layout(n=256, group=256, step=2, offset=1)
    single = gpu.CUDA.matmul(x, b, s2, *layout)
    wide_single = planes.packed_matmul(wide[0], wide[2], s2, layout, "reference")
    torch.testing.assert_close(
        single.double(), wide_single, rtol=tolerance, atol=tolerance * float(wide_single.abs().max())
    )
    torch.library.opcheck(gpu.CUDA.matmul, (x, b, s2, *layout), test_utils=("test_schema", "test_faketensor"))
    chain = (x, a, s1, b, s2, c)
    torch.library.opcheck(torch.ops.clisonix.double_binary_cuda, chain, test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(ClisonixError, match="not one for every 64 of 256"):
        gpu.CUDA.matmul(x, b[:, None].expand(-1, 4), s2, 256, 64, 2, 1)


def test_empty_products() -> None:
    planes_of, _, step = matrix(5, 16, 1)
    assert cuda.packed_product(randn(0, 16), planes_of, 16, step=step, offset=1).shape == (0, 5)
    nothing = cuda.packed_product(randn(2, 0), planes_of[..., :0], 0, step=step, offset=1)
    assert torch.equal(nothing, torch.zeros(2, 5))


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="the thread sanitizer of fibers is tried on Linux only")
def test_barriers_order_shared_memory_and_a_missing_one_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes_of, levels, step = matrix(40, 2048, 1)
    x = randn(1, 2048)
    # Room for two of four steps, so that the digits are replaced while the kernel runs.
    shared = 2 * 1536 + cuda.HEADER_BYTES + 16 * 32 * 32
    monkeypatch.setattr(cuda, "limits_of", lambda device: cuda.Limits(4, shared))

    def run(program: Path) -> Tensor:
        monkeypatch.setattr(cuda, "launch", emulated(program))
        return cuda.packed_product(x, planes_of, 2048, step=step, offset=1, layout=(1, 2))

    whole = run(build(tmp_path / "whole", "thread", "-DFEW_VARIANTS"))
    torch.testing.assert_close(whole.double(), x.double() @ levels.T, rtol=1e-4, atol=1e-4)
    source = cuda.SOURCE.read_text()
    barriers = [found.start() for found in re.finditer(r"__syncthreads\(\);", source)]
    assert len(barriers) == 5
    # The one that lets the digits be replaced, which no order of threads shows as reliably as the sanitizer.
    place = barriers[2]
    broken = source[:place] + "{}" + source[place + len("__syncthreads();") :]
    with pytest.raises(RuntimeError, match="data race"):
        run(build(tmp_path / "broken", "thread", "-DFEW_VARIANTS", source=broken))


@needs_nvcc
@pytest.mark.parametrize(("variant", "capability"), [((1, 1, 16), "80"), ((1, 1, 16), "90"), ((2, 3, 16), "90")])
def test_the_sources_compile_without_spilling(variant: tuple[int, int, int], capability: str) -> None:
    binary, said = cuda.compile_nvcc(cuda.Variant(*variant), capability, verbose=True)
    assert binary[:4] == b"\x7fELF"
    assert "0 bytes spill stores, 0 bytes spill loads" in said
    assert "warning" not in said


@pytest.mark.parametrize("shared", [96 * 1024, cuda.SHARED_BYTES])
@pytest.mark.parametrize("m", [1, 100, 4096, 16384, 100_000])
@pytest.mark.parametrize("n", [1, 512, 4096, 16384])
def test_launches_fit_a_device(m: int, n: int, shared: int) -> None:
    for bits in (1, 2):
        packed = torch.empty(bits, m, -(-n // 8), dtype=torch.uint8, device="meta")
        for batch in (1, 2, 3, 8, 9, 16):
            x, out = torch.empty(batch, n, device="meta"), torch.empty(batch, m, device="meta")
            work = cuda.plan(x, packed, n, 1, 1, None, None, out, cuda.Limits(132, shared))
            assert work.shared_bytes <= shared
            assert 32 <= work.threads <= work.variant.threads
            down, chunk = work.numbers[6:8]
            assert work.threads % (32 * down) == 0
            assert chunk >= 1
            assert work.grid * 32 * down >= m > (work.grid - 1) * 32 * down


def test_what_the_kernel_does_not_take_is_refused_in_a_sentence() -> None:
    packed = torch.zeros(3, 4, 2, dtype=torch.uint8)
    with pytest.raises(ClisonixError, match="was given 3 bits"):
        cuda.packed_product(randn(1, 16), packed, 16, step=1, offset=1)
    with pytest.raises(ClisonixError, match=re.escape("was given torch.float64")):
        gpu.operators("cuda", randn(1, 16).double())
    with pytest.raises(ClisonixError, match="move it to a GPU"):
        gpu.operators("cuda", randn(1, 16))
    with pytest.raises(ClisonixError, match="did you mean 'cuda'"):
        gpu.operators("cude", randn(1, 16))  # type: ignore[arg-type]
