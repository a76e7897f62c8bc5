"""State-space kernels: Mamba-2's chunked scan and its one-token step, and the step of Gated DeltaNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.buffers import TORCH_DTYPE
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.work import SsmScan, SsmStep

_CHECKED = 10
_CHECKED_SEQUENCES = 2


def scan(op: SsmScan, bench: Bench) -> Sequence[Candidate]:
    """A prompt from an empty state; outputs are checked token by token in closed form."""
    from sparsesim.kernels.ssm.scan import mamba_scan

    if op.kind != "mamba2" or op.dtype != "bf16" or op.state_dtype != "fp32":
        raise UnsupportedError(f"ssm_scan: measured is mamba2 in bf16 with an fp32 state, not {op.kind} in {op.dtype}")
    sets = [_mamba(op, bench) for _ in range(bench.sets(float(op.hbm_bytes())))]
    first = sets[0]

    def check(out: Any) -> tuple[Any, Any]:
        b, t, h = (spread_indices(size, _CHECKED) for size in out[0].shape[:3])
        places = [(b[i % len(b)], t[-1 - i % len(t)], h[i % len(h)]) for i in range(_CHECKED)]
        return torch.stack([out[0][i] for i in places]), torch.stack([_token(first, *i) for i in places])

    return [Candidate("triton", [partial(mamba_scan, inputs) for inputs in sets], check)]


def step(op: SsmStep, bench: Bench) -> Sequence[Candidate]:
    """One token a sequence; the states are updated in place, so they are no part of the shared buffers."""
    if op.kind not in ("mamba2", "gdn") or op.dtype != "bf16" or op.tokens != 1:
        raise UnsupportedError(f"ssm_step: measured are one-token mamba2 and gdn in bf16, not {op.kind} in {op.dtype}")
    shape = (int(op.batch), int(op.heads), int(op.head_dim), int(op.state))
    dtype = TORCH_DTYPE[op.state_dtype]
    states = [torch.randn(shape, dtype=dtype, device=bench.device) for _ in range(bench.sets(float(op.hbm_bytes())))]
    build, kernel, reference = _mamba_step() if op.kind == "mamba2" else _delta_step()
    sets = [(build(op, bench), state) for state in states]
    some = slice(0, _CHECKED_SEQUENCES)
    expected, _ = reference(_sequences(sets[0][0], some), states[0][some].clone())
    calls = [partial(kernel, inputs, state) for inputs, state in sets]
    return [Candidate("triton", calls, lambda out: (out[some], expected))]


def _mamba_step() -> tuple[Any, Any, Any]:
    from sparsesim.kernels.ssm.decode import mamba_decode
    from sparsesim.kernels.ssm.reference import mamba_reference

    return _mamba, mamba_decode, mamba_reference


def _delta_step() -> tuple[Any, Any, Any]:
    from sparsesim.kernels.ssm.decode import delta_decode
    from sparsesim.kernels.ssm.reference import delta_reference

    return _delta, delta_decode, delta_reference


def _mamba(op: SsmScan | SsmStep, bench: Bench) -> Any:
    """Inputs of random numbers; a in [-16, -1] and steps around softplus(-4), as Mamba-2 starts its training."""
    from sparsesim.kernels.ssm.reference import MambaInputs

    batch, length, heads, groups = int(op.batch), int(op.tokens), int(op.heads), int(op.groups)
    take, state = bench.inputs.take, int(op.state)
    return MambaInputs(
        x=take(batch, length, heads, int(op.head_dim)),
        dt=take(batch, length, heads),
        b=take(batch, length, groups, state),
        c=take(batch, length, groups, state),
        a=-torch.linspace(1.0, 16.0, heads, device=bench.device),
        d=torch.ones(heads, device=bench.device),
        dt_bias=torch.full((heads,), -4.0, device=bench.device),
    )


def _delta(op: SsmStep, bench: Bench) -> Any:
    """Inputs with unit keys and queries, decays and write strengths between 0 and 1."""
    from sparsesim.kernels.ssm.reference import DeltaInputs

    if op.groups != op.heads:
        raise UnsupportedError(f"ssm_step gdn: {op.groups:g} groups, measured is one per head ({op.heads:g})")
    batch, heads, width, state = int(op.batch), int(op.heads), int(op.head_dim), int(op.state)
    take = bench.inputs.take
    q, k = (torch.nn.functional.normalize(take(batch, 1, heads, state), dim=-1) for _ in range(2))
    decay = -torch.nn.functional.softplus(take(batch, 1, heads) - 3.0)
    return DeltaInputs(q, k, take(batch, 1, heads, width), decay, torch.sigmoid(take(batch, 1, heads)))


def _sequences(inputs: Any, some: slice) -> Any:
    """The inputs of some sequences; vectors over heads are shared by all."""
    fields = {n: getattr(inputs, n) for n in type(inputs).__dataclass_fields__}
    return type(inputs)(**{n: t[some] if t.ndim > 1 else t for n, t in fields.items()})


def _token(inputs: Any, b: int, t: int, h: int) -> Any:
    """Output of one token and head: sum over j <= t of exp(A (c_t - c_j)) d_j (B_j . C_t) x_j, and D x_t."""
    group = h // (inputs.x.shape[2] // inputs.b.shape[2])
    dt = torch.nn.functional.softplus(inputs.dt[b, : t + 1, h].double() + inputs.dt_bias[h].double())
    through = torch.cumsum(dt, 0)
    decay = torch.exp(inputs.a[h].double() * (through[-1] - through))
    reach = inputs.b[b, : t + 1, group].double() @ inputs.c[b, t, group].double()
    x = inputs.x[b, : t + 1, h].double()
    return (decay * dt * reach) @ x + inputs.d[h].double() * x[-1]
