"""Mistakes that a type checker has to find in a user's project: one at each line with a mark."""

from __future__ import annotations

import torch

import torch_semimarkov as ts

x = torch.zeros(1, 4, 2)
ts.log_partition(x, x)  # mistake: call-arg
ts.log_partition(x, x, x, starts=x)  # mistake: call-arg
print(ts.viterbi(x, x, x).segment)  # mistake: attr-defined
ts.marginals(x, x, x).labels.no_such_method()  # mistake: attr-defined
ts.SemiMarkovCRFHead(2)  # mistake: call-arg
ts.SemiMarkovCRFHead(2, 3).compute_loss(x, reduction=1)  # mistake: arg-type
ts.no_such_name(x)  # mistake: attr-defined
