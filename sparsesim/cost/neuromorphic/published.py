"""The performance model published with the threshold-sparsified MatMul-free model (arXiv:2608.30439, Eq. 8-12).

    S_comm = 1 / (0.8 + 0.2 rho_com)                 a fifth of the dense time is communication between chips
    f_prefill  = f_dense * S_comm / r_max            pipelined: the slowest block
    f_generate = f_dense * S_comm / r_avg            fall-through: the blocks add up
    E_token    = E_dense * f_dense / f               constant power

rho_com: density of the values sent between chips; r: executed over dense multiply-adds. The two speed-ups multiply,
so the model lets the communication shrink with the multiply-adds as well as with its own density; `additive_speed_up`
takes the same inputs without that: 1 / (0.8 r + 0.2 rho_com).
"""

from __future__ import annotations

COMMUNICATION_SHARE = 0.2
"""Of the dense time on 24 chips (arXiv:2608.30439, "approximately 20 %")."""


def communication_speed_up(rho_com: float, share: float = COMMUNICATION_SHARE) -> float:
    """S_comm."""
    return 1.0 / (1.0 - share + share * rho_com)


def mac_speed_up(ratio: float) -> float:
    """S_MAC = 1/r."""
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"r = {ratio:g} must lie above 0 and at most at 1")
    return 1.0 / ratio


def speed_up(ratio: float, rho_com: float, share: float = COMMUNICATION_SHARE) -> float:
    """Sparse over dense throughput as published: both speed-ups multiply."""
    return communication_speed_up(rho_com, share) * mac_speed_up(ratio)


def additive_speed_up(ratio: float, rho_com: float, share: float = COMMUNICATION_SHARE) -> float:
    """The same inputs, but multiply-adds shrink only their own part of the time and messages theirs."""
    return 1.0 / ((1.0 - share) * ratio + share * rho_com)


def constant_power_energy(dense_j: float, gain: float) -> float:
    """J/token of the sparse model if the power stays what it was."""
    return dense_j / gain
