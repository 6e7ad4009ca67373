"""What the scans do: forward, reverse, speed, inside an AR-SSM layer, and without a GPU.

python examples/fused_scan_demo.py
"""

import torch
from torch.utils.benchmark import Timer

from torch_semimarkov.scan import explain, fused_associative_scan, linear_scan
from torch_semimarkov.ssm import AdaptiveRankSemiseparableLayer


def basic():
    """Running sums, other ops, and a recurrence."""
    x = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
    print("x                    ", x.tolist())
    for op in ("add", "mul", "max", "min"):
        print(f"op={op!r:<18}", fused_associative_scan(x, op=op).tolist())
    print("x[t] = x[t-1]/2 + u[t]", linear_scan(torch.full((5,), 0.5), x).tolist())
    y, carry = fused_associative_scan(x[:3], return_final=True)
    rest = fused_associative_scan(x[3:], initial=carry)
    print("in two chunks        ", [*y.tolist(), *rest.tolist()])


def reverse():
    """The other way and both ways at once, without a flip."""
    x = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
    print("reverse              ", fused_associative_scan(x, reverse=True).tolist())
    print("reverse, exclusive   ", fused_associative_scan(x, reverse=True, exclusive=True).tolist())
    left, right = fused_associative_scan(x, reverse="both")
    print("both: left + right - x", (left + right - x).tolist(), "is the total everywhere")
    ragged = fused_associative_scan(x.expand(2, 5), 1, True, lengths=torch.tensor([5, 3]))
    print("lengths 5 and 3      ", ragged.tolist())


def performance():
    """Times beside torch.cumsum for a model's (batch, time, features)."""
    x = torch.randn(4, 2048, 512, device="cuda" if torch.cuda.is_available() else "cpu")
    torchs = {"forward": "x.cumsum(dim)", "reverse": "x.flip(dim).cumsum(dim).flip(dim)"}
    for dim in (1, 2):
        for name, theirs in torchs.items():
            ours = f"scan(x, dim, {name == 'reverse'})"
            known = {"x": x, "dim": dim, "scan": fused_associative_scan}
            ms = [1e3 * Timer(run, globals=known).timeit(6).median for run in (ours, theirs)]
            print(f"(4, 2048, 512) dim {dim} {name}: {ms[0]:.2f} ms, torch {ms[1]:.2f} ms")


def ar_ssm():
    """The layer that is built on the scans."""
    torch.manual_seed(0)
    layer = AdaptiveRankSemiseparableLayer(64, max_rank=16, causal=True)
    x = torch.randn(2, 100, 64)
    y, diagnostics = layer(x)
    changed = x.clone()
    changed[:, 50:] = 0
    same = torch.equal(layer(changed)[0][:, :50], y[:, :50])
    print("output               ", tuple(y.shape))
    print("used_fused_scan      ", diagnostics["used_fused_scan"])
    print("effective rank       ", round(diagnostics["effective_rank"].detach().mean().item(), 1))
    print("the past ignores the future, to the bit:", same)


def cpu_fallback():
    """Which kernel runs on CPU tensors, and why."""
    print(explain(torch.empty(4, 2048, 512), 1))
    print(explain(torch.empty(4, 2048, 512, dtype=torch.int32), 1, op="max"))
    x = torch.randn(4, 2048, 512)
    found = fused_associative_scan(x, 1)
    print("largest difference from torch.cumsum:", float((found - x.cumsum(1)).abs().max()))


if __name__ == "__main__":
    for part in (basic, reverse, performance, ar_ssm, cpu_fallback):
        print(f"\n{part.__name__}: {part.__doc__}")
        part()
