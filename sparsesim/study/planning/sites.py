"""What replicas of a plan are made of: the deployment's own keys, or those of its pools of prefill and decode.

A site is a pool's keys without a layout: hardware, engine, memory, scheduler. A scenario of one pool has one site,
which pools of prefill and decode share; a scenario of two has one for each, and replicas that do both may stand on
either. Axes of the pools' hardware multiply them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sparsesim.errors import InputError, Problem
from sparsesim.loading import set_path
from sparsesim.scenario import Pool, Scenario, place

Role = Literal["serve", "prefill", "decode"]
POOLS: tuple[Role, ...] = ("prefill", "decode")
BESIDE = {"serve": {"pools", "transfer"}, "pools": {"pools", "autoscale"}}
"""Keys of a deployment that replicas of one role, or of two pools, do not take over."""


@dataclass(frozen=True, eq=False)
class Site:
    """Keys of a pool but for its layout, and a scenario in which they are the whole deployment."""

    hardware: str
    keys: Mapping[str, Any]
    scenario: Scenario

    def scheduler(self, kind: str, role: Role, limits: Mapping[str, int]) -> dict[str, Any]:
        """The scheduler of a role under a candidate's limits, with the site's other keys where it is of that kind.

        Batch limits are searched for decode replicas, token budgets for prefill replicas; the other limit is the
        site's own, moved only where the two do not go together.
        """
        own = self.scenario.deployment.scheduler
        kept = own.model_dump(mode="json", exclude_unset=True) if own.kind == kind else {}
        found = {**kept, "kind": kind, **limits}
        if role == "prefill":
            found["max_running"] = min(int(getattr(own, "max_running", 256)), limits["token_budget"])
        elif role == "decode":
            found["token_budget"] = max(int(getattr(own, "token_budget", 2048)), limits["max_running"])
        return found


def sites(scenario: Scenario, hardware: Mapping[Role, list[Any]], pooled: bool) -> dict[Role, tuple[Site, ...]]:
    """The sites of every role; equal keys are one site.

    Args:
        scenario: of one pool or two.
        hardware: of the pools, where axes name it.
        pooled: whether pools are searched.

    Raises:
        InputError: hardware that is not known.

    """
    made: dict[str, Site] = {}

    def of(keys: Mapping[str, Any], place: str) -> Site:
        key = json.dumps(keys, sort_keys=True, default=str)
        if key not in made:
            made[key] = _site(scenario, keys, place)
        return made[key]

    deployment = scenario.document.values["deployment"]
    pools = deployment.get("pools") or {}
    plain = {key: value for key, value in deployment.items() if key in Pool.model_fields}
    found: dict[Role, tuple[Site, ...]] = {"serve": () if pools else (of(plain, "deployment"),)}
    for role in POOLS if pooled or pools else ():
        own = pools.get(role, plain)
        asked = hardware.get(role, [own["hardware"]])
        found[role] = tuple(of({**own, "hardware": one}, f"study.axes.deployment.pools.{role}") for one in asked)
    return {**found, "serve": tuple(dict.fromkeys(one for role in found for one in found[role]))}


def _site(scenario: Scenario, keys: Mapping[str, Any], place: str) -> Site:
    alone = set_path(scenario.document, "deployment", dict(keys), place)
    alone = set_path(alone, "study", None, place) if "study" in alone.values else alone
    made = Scenario.from_document(alone)
    return Site(str(made.deployment.by_name()["all"].hardware.name), keys, made)


def deployed(scenario: Scenario, pools: Mapping[Role, tuple[Site, Mapping[str, Any]]], cap: str | None) -> Scenario:
    """The scenario with replicas of one role, or with pools of two, each a site with its layout and limits.

    Args:
        scenario: what else is asked: workload, SLO, router, faults, admission.
        pools: `serve` alone, or `prefill` and `decode`.
        cap: on the power of a device.

    """
    given = {role: {**site.keys, **settings} for role, (site, settings) in pools.items()}
    left_out = BESIDE["serve" if "serve" in given else "pools"]
    deployment = scenario.document.values["deployment"]
    beside = {k: v for k, v in deployment.items() if k not in Pool.model_fields and k not in left_out}
    whole = {**given["serve"], **beside} if "serve" in given else {"pools": given, **beside}
    document = set_path(scenario.document, "deployment", whole, "study")
    document = set_path(document, "power.cap", cap, "study") if cap or scenario.power.cap else document
    document = set_path(document, "study", None, "study") if "study" in document.values else document
    return Scenario.from_document(document)


def check_plannable(scenario: Scenario) -> None:
    """Refuse what a search over layouts and numbers of replicas would pass over, all at once.

    Raises:
        InputError: autoscaling, outages of numbered replicas, speculation, or experts on devices of their own.

    """
    deployment, problems = scenario.deployment, []
    if deployment.faults is not None and deployment.faults.outages:
        text = "outages name replicas, whose number a plan varies"
        problems.append(Problem(text, path="deployment.faults.outages", hint="random failures, or sparsesim run"))
    for name, pool in deployment.by_name().items():
        at = place(name)
        if pool.autoscale is not None:
            text = "a plan chooses a fixed number of replicas"
            problems.append(Problem(text, path=f"{at}.autoscale", hint="null; run the winner with it afterwards"))
        if pool.ffn is not None:
            text = "a plan tries no devices for experts alone"
            problems.append(Problem(text, path=f"{at}.ffn", hint="a sweep"))
        if getattr(pool.scheduler, "speculation", None) is not None:
            text = "speculation is simulated, not screened"
            problems.append(Problem(text, path=f"{at}.scheduler.speculation", hint="sparsesim run or sweep"))
    if problems:
        with scenario.placing():
            raise InputError(problems)
