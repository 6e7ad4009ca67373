"""A small call of each kernel of the triton backend, for a tool that watches memory.

    compute-sanitizer --tool racecheck python tests/gpu_racecheck.py

Exits with 1 if a result is not that of the cpu backend. Without a GPU it says so and exits with 0.
"""

import sys

import torch
from factory import SIZES, Size, make_inputs
from gpu_cases import (
    GPU,
    LIMITS,
    OTHERS,
    assert_marginals,
    compare,
    everything,
    same_bits,
    truth_of,
    wide,
)

from torch_semimarkov.functional import marginals, max_marginals, sample, segment_score

# A tool makes a call hundreds of times slower: few positions, but several of every loop.
CASES = (
    (Size((70, 33, 1), K=20, C=5), "boundary"),
    (Size((40,), K=40, C=24), "start-end"),
    (Size((30, 12, 5, 30), K=2, C=3), "forbidden"),
    (Size((24, 9), K=3, C=4), "per-duration"),
    (Size((70, 33, 1), K=20, C=5), "tail"),
)


def run(place, cases=CASES):
    """Forward, backward, both with checkpoints, decoding and questions, each against float64.

    Raises:
        AssertionError: a result is off, or a repeated call gave other bits.
    """
    for size, flags in cases:
        inputs = make_inputs(size, torch.float32, flags)
        first = everything(place, inputs)
        assert same_bits(first, everything(place, inputs)), f"{size}: other bits"
        for interval in (None, 7):
            found = marginals(
                **place.ready(inputs), backend=place.backend, checkpoint_interval=interval
            )
            assert_marginals(found, truth_of(inputs), LIMITS[torch.float32])
        ask(place, inputs)


def ask(place, inputs):
    """Samples and, where there are some, max-marginals."""
    call = {**place.ready(inputs), "backend": place.backend}
    first, second = (sample(**call, num_samples=3, generator=seeded()) for _ in range(2))
    assert first == second, "other samples"
    assert segment_score(first, **place.ready(inputs), validate_segments=True).isfinite().all()
    if inputs["transition"].dim() == 2:
        found, truth = max_marginals(**call), max_marginals(**wide(inputs), backend="cpu")
        for one, other in zip(found, truth, strict=True):
            compare(one, other, rtol=1e-5, atol=1e-5)


def seeded():
    return torch.Generator().manual_seed(0)


def main():
    """On a GPU, or with --interpret where Triton's interpreter or the cpu backend stands in."""
    if "--interpret" in sys.argv[1:]:
        run(OTHERS[-1], ((SIZES[4], "boundary"), (SIZES[4], "per-duration")))
        return 0
    if not torch.cuda.is_available():
        print("no GPU here: nothing was checked for races")
        return 0
    run(GPU)
    torch.cuda.synchronize()
    print(f"{len(CASES)} cases are those of the cpu backend")
    return 0


if __name__ == "__main__":
    sys.exit(main())
