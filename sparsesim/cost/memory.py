"""Memory of a replica: weights, reserve, and what is left for KV cache and states.

A device offers `utilisation` of its memory to the engine; the engine's reserve and the fullest device's weights come
first, the rest is divided into blocks of KV cache (and state slots for layers with a state).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsesim.errors import DoesNotFitError, InputError
from sparsesim.model.arch import Model
from sparsesim.model.setting import Setting

GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on the fullest device of a replica, and the cache the replica can hold.

    A replica holds `groups` (dp) times what one attention rank holds. A block is 16 tokens of one group of layers;
    `kv_windows` has the window of each group that a sequence takes blocks for.
    """

    capacity_bytes: float
    usable_bytes: float
    weight_bytes: float
    reserve_bytes: float
    block_tok: int
    block_bytes: float
    state_bytes: float
    kv_blocks: int
    state_slots: int
    groups: int
    kv_windows: tuple[float, ...]

    @property
    def free_bytes(self) -> float:
        """For cache and states; negative where the weights do not fit."""
        return self.usable_bytes - self.weight_bytes - self.reserve_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens of context the replica can hold while no window is full."""
        return self.kv_blocks * self.block_tok // max(len(self.kv_windows), 1)


def plan_memory(
    model: Model,
    setting: Setting,
    capacity_bytes: float,
    *,
    utilisation: float,
    reserve_bytes: float,
    block_tok: int,
    max_running: int,
    kv_blocks: int | None = None,
) -> MemoryPlan:
    """Divide a device's memory.

    States are set aside for `max_running` sequences first, as engines do for hybrids, but never more than half of
    what is free; a model without attention gives all of it to states.
    """
    usable = capacity_bytes * utilisation
    weights = model.device_weight_bytes(setting)
    free = usable - weights - reserve_bytes
    per_token, windows = _block_groups(model, setting)
    state = model.state_bytes(setting.precision, setting.tp) / setting.pp
    groups = setting.dp
    slots, for_states = 0, 0.0
    if state > 0 and free > 0:
        most = free if per_token == 0 else free / 2
        slots = min(math.floor(most / state), math.ceil(max_running / groups))
        for_states = slots * state
    block = per_token * block_tok
    blocks = max(math.floor((free - for_states) / block), 0) if block > 0 and free > 0 else 0
    return MemoryPlan(
        capacity_bytes=capacity_bytes,
        usable_bytes=usable,
        weight_bytes=weights,
        reserve_bytes=reserve_bytes,
        block_tok=block_tok,
        block_bytes=block,
        state_bytes=state,
        kv_blocks=kv_blocks if kv_blocks is not None else blocks * groups,
        state_slots=slots * groups,
        groups=groups,
        kv_windows=windows,
    )


def _block_groups(model: Model, setting: Setting) -> tuple[float, tuple[float, ...]]:
    """Bytes a token takes in one group of layers, and each group's window.

    Layers that keep a whole context and layers that keep a window take blocks of their own, all of one size: that of
    the smallest group; a larger one counts as several (rounded up).
    """
    sizes = model.kv_by_window(setting.precision, setting.tp)
    if not sizes:
        return 0.0, ()
    unit = min(sizes.values())
    windows = tuple(w for w, size in sizes.items() for _ in range(math.ceil(size / unit - 1e-9)))
    return unit / setting.pp, windows


def check_fits(plan: MemoryPlan, model: Model, setting: Setting, hardware: str, least_tok: int = 1) -> None:
    """Raise where the weights do not fit, or no room is left for one sequence.

    Raises:
        DoesNotFitError: what is how large, and the smallest change that would fit.

    """
    needs = plan.block_bytes * len(plan.kv_windows) * math.ceil(least_tok / plan.block_tok) + plan.state_bytes
    if plan.kv_blocks and plan.free_bytes >= 0:
        return
    if plan.free_bytes >= needs and (plan.block_bytes == 0 or plan.kv_blocks > 0):
        return
    missing = needs - plan.free_bytes
    lines = [
        f"{model.name} does not fit {hardware} at tp {setting.tp}, pp {setting.pp}:"
        f" {missing / GIB:.2f} GiB a device are missing",
        f"  weights of the fullest device {plan.weight_bytes / GIB:.2f} GiB",
        f"  engine's reserve              {plan.reserve_bytes / GIB:.2f} GiB",
        f"  one sequence of {least_tok} tokens    {needs / GIB:.3f} GiB",
        f"  usable                        {plan.usable_bytes / GIB:.2f} GiB of {plan.capacity_bytes / GIB:.2f} GiB",
        _smallest_change(plan, model, setting, needs),
    ]
    raise DoesNotFitError("\n".join(lines))


def check_experts_fit(
    model: Model, setting: Setting, capacity_bytes: float, utilisation: float, reserve_bytes: float, hardware: str
) -> float:
    """Bytes of weights on a device that holds routed experts alone.

    Raises:
        DoesNotFitError: what is how large, and how many devices would do.

    """
    weights, usable = model.expert_bytes(setting), capacity_bytes * utilisation - reserve_bytes
    if weights <= usable:
        return weights
    more = (setting.ranks * 2**k for k in range(1, 5))
    enough = [
        n for n in more if model.expert_bytes(replace(setting, tp=n, ep=setting.ep * n // setting.ranks)) <= usable
    ]
    lines = [
        f"the experts of {model.name} do not fit {setting.ranks} x {hardware}:"
        f" {(weights - usable) / GIB:.2f} GiB a device are missing",
        f"  weights of a device           {weights / GIB:.2f} GiB",
        f"  engine's reserve              {reserve_bytes / GIB:.2f} GiB",
        f"  usable beside the reserve     {usable / GIB:.2f} GiB of {capacity_bytes / GIB:.2f} GiB",
        f"  they would fit {enough[0]} devices" if enough else "  sixteen times as many devices would not do either",
    ]
    raise DoesNotFitError("\n".join(lines))


def _smallest_change(plan: MemoryPlan, model: Model, setting: Setting, needs: float) -> str:
    for tp in (2 * setting.tp, 4 * setting.tp, 8 * setting.tp, 16 * setting.tp):
        try:
            ep = tp * setting.dp if setting.ep > 1 else 1
            weights = model.device_weight_bytes(replace(setting, tp=tp, ep=ep))
        except InputError:
            continue
        if weights + plan.reserve_bytes + needs <= plan.usable_bytes:
            return f"  it would fit with tp {tp}: {weights / GIB:.2f} GiB of weights a device"
    scale = (plan.usable_bytes - plan.reserve_bytes - needs) / plan.weight_bytes
    return f"  it would fit with weights of {max(scale, 0) * 100:.0f} % of their size, or on devices with more memory"
