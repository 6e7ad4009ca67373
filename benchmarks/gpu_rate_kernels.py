"""Two kernels that do nothing but one kind of arithmetic, in registers."""

import triton
import triton.language as tl


@triton.jit
def exponentials(p_out, STEPS: tl.constexpr, LANES: tl.constexpr):
    """Chains of exponentials, one a lane; the values stay between 1/2 and 1."""
    o_lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    b_value = o_lane.to(tl.float32) * 1e-9
    for _ in range(STEPS):
        b_value = tl.exp2(-b_value)
    tl.store(p_out + o_lane, b_value)


@triton.jit
def multiply_adds(p_out, STEPS: tl.constexpr, LANES: tl.constexpr):
    """Chains of multiply-adds, one a lane; the values go to 1."""
    o_lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    b_value = o_lane.to(tl.float32) * 1e-9
    b_half = tl.full((LANES,), 0.5, tl.float32)
    for _ in range(STEPS):
        b_value = tl.fma(b_value, b_half, b_half)
    tl.store(p_out + o_lane, b_value)


KERNELS = {"exponentials": exponentials, "multiply_adds": multiply_adds}
