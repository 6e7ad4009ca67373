"""The one table of tolerances: quantity and type of the inputs -> relative and absolute."""

import torch
from torch import Tensor

FLOAT64, FLOAT32 = torch.float64, torch.float32
HALF_TYPES = (torch.bfloat16, torch.float16)

# A value passes if |value - truth| <= absolute + relative * |truth|.
TOLERANCES = {
    ("log_partition", FLOAT64): (1e-12, 1e-11),
    ("log_partition", FLOAT32): (1e-6, 1e-5),
    ("score", FLOAT64): (1e-12, 1e-11),
    ("score", FLOAT32): (1e-6, 1e-5),
    ("log_prob", FLOAT64): (1e-12, 1e-11),
    ("log_prob", FLOAT32): (1e-6, 1e-5),
    ("entropy", FLOAT64): (1e-12, 1e-11),
    ("entropy", FLOAT32): (1e-6, 1e-5),
    ("marginals", FLOAT64): (1e-11, 1e-11),
    ("marginals", FLOAT32): (1e-5, 1e-5),
    ("gradient", FLOAT64): (1e-11, 1e-11),
    ("gradient", FLOAT32): (1e-5, 1e-5),
    # of scores times 100: log messages of 10^4 and more, whose roundings are posteriors' errors
    ("gradient of large scores", FLOAT64): (1e-10, 1e-10),
    ("gradient of large scores", FLOAT32): (1e-5, 1e-5),
    ("second derivative", FLOAT64): (1e-9, 1e-10),
    # Scans and their derivatives; sums and products of a few rounded terms.
    ("scan", FLOAT64): (1e-11, 1e-11),
    ("scan", FLOAT32): (1e-5, 1e-5),
    # The gradient of a half tensor is of its type: 8 and 11 bits, rounded once.
    ("gradient", torch.bfloat16): (2**-8, 1e-4),
    ("gradient of large scores", torch.bfloat16): (2**-8, 1e-4),
    ("gradient of large scores", torch.float16): (2**-11, 1e-5),
    ("gradient", torch.float16): (2**-11, 1e-5),
}
# All other results from half types come back as float32 and keep its row.
for _name in ("log_partition", "score", "log_prob", "entropy", "marginals"):
    for _dtype in HALF_TYPES:
        TOLERANCES[_name, _dtype] = TOLERANCES[_name, FLOAT32]


def assert_close(
    quantity: str, dtype: torch.dtype, value: Tensor, truth: Tensor | list[float]
) -> None:
    """Fail unless ``value`` is the truth to the tolerance of its row; shapes must be equal too."""
    relative, absolute = TOLERANCES[quantity, dtype]
    torch.testing.assert_close(
        value.detach().to("cpu", FLOAT64),
        torch.as_tensor(truth, dtype=FLOAT64).detach().cpu(),
        rtol=relative,
        atol=absolute,
        msg=lambda text: f"{quantity} from {str(dtype)[6:]}: {text}",
    )
