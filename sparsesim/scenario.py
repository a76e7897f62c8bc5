"""The scenario: what is asked, as one strict value.

Read from YAML (`Scenario.load`), from a mapping (`Scenario.of`), or changed with `with_settings`. Every key that may be
left out has its default here, and the manifest of a run writes all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, PrivateAttr, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from sparsesim import units
from sparsesim.cost.network.placement import Placement
from sparsesim.errors import InputError, Problem
from sparsesim.families import Frozen
from sparsesim.hardware.topology import Topology, load_topology
from sparsesim.loading import Document, build, find, load_yaml, with_settings
from sparsesim.model.load import ExpertLoad, read_load
from sparsesim.model.setting import Precision
from sparsesim.model.sparsity import Sparsity
from sparsesim.sim.admission import Admission
from sparsesim.sim.autoscale import Autoscale
from sparsesim.sim.disturbances import Disturbances
from sparsesim.sim.faults import Faults
from sparsesim.sim.routers import Router
from sparsesim.sim.schedulers import Scheduler
from sparsesim.studies import Study
from sparsesim.workload.kinds.base import Workload


class Hardware(Frozen):
    """A profile by name, in one of its modes, or a number of its chips."""

    name: str
    mode: str | None = None
    chips: int | None = Field(None, ge=1)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class _OrWord:
    """Says in the schema that a word with values is accepted too."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


def _load(value: Any) -> ExpertLoad:
    try:
        return read_load(value)
    except InputError as error:
        raise ValueError(str(error)) from None


HardwareField = Annotated[Hardware, BeforeValidator(_named), _OrWord()]
ExpertLoadField = Annotated[ExpertLoad, BeforeValidator(_load), _OrWord()]


def _known_topology(value: Any) -> Any:
    if not isinstance(value, str):
        return Topology.resolve(value)
    try:
        load_topology(value)
    except InputError as error:
        raise ValueError(str(error)) from None
    return value


TopologyField = Annotated[str | Topology, BeforeValidator(_known_topology)]
"""A name, which the manifest keeps, or a topology written out."""


class MemorySettings(Frozen):
    """How much of the device memory the engine takes, or the KV blocks a replica has."""

    utilisation: float = Field(0.9, gt=0, le=1, description="share of the device memory that the engine may use")
    kv_blocks: int | None = Field(None, ge=1, description="KV blocks of a replica, instead of deriving them")
    block: units.Tokens = Field(16.0, gt=0, description="tokens in a KV block")
    prefix_cache: bool | Literal["unbounded"] = Field(
        False, description="keep the KV of prompts for those that begin alike; unbounded: nothing is ever forgotten"
    )
    host: units.Bytes = Field(0.0, ge=0, description="host memory of a replica for prefixes that the pool evicts")
    host_bandwidth: units.BytesPerSecond | None = Field(
        None, gt=0, description="of one device to the host, each direction; by default the hardware's own"
    )

    @model_validator(mode="after")
    def _host_keeps_what_is_evicted(self) -> Self:
        if self.host and self.prefix_cache is not True:
            raise ValueError("host keeps what a prefix cache evicts: it needs prefix_cache: true")
        return self


class Overlap(Frozen):
    """What runs at the same time."""

    shared_experts: bool = Field(False, description="shared experts while tokens are dispatched")
    two_batch: bool = Field(False, description="half of a batch computes while the other half communicates")


class FfnDevices(Frozen):
    """Devices of a replica that compute its routed experts and nothing else: attention-FFN disaggregation.

    Three micro-batches keep both sides at work: one on each, and one on its way (MegaScale-Infer, arXiv 2504.02263).
    """

    hardware: HardwareField | None = Field(None, description="by default that of the attention")
    devices: int = Field(ge=1, description="of one replica, beside the tp*dp of its attention")
    ep: int | None = Field(None, ge=1, description="ranks the experts are spread over; divides devices, by default all")
    micro_batches: int = Field(3, ge=1, description="that a batch is cut into; while one computes, others move")
    bandwidth: units.BytesPerSecond | None = Field(
        None, gt=0, description="of one device between the two groups, instead of what its link or card achieves"
    )
    latency: units.Seconds | None = Field(None, ge=0, description="of one exchange, instead of the fitted kernels'")

    @property
    def ranks(self) -> int:
        """That the experts are spread over."""
        return self.ep or self.devices

    @model_validator(mode="after")
    def _ep_divides(self) -> Self:
        if self.devices % self.ranks:
            raise ValueError(f"ep {self.ep} does not divide the {self.devices} devices")
        return self


class Layout(Frozen):
    """How a replica is laid over its devices and run."""

    tp: int = Field(1, ge=1, description="ranks a layer is split over")
    dp: int = Field(1, ge=1, description="copies of the attention inside a replica")
    ep: int = Field(1, ge=1, description="ranks the experts are spread over; divides tp*dp")
    pp: int = Field(1, ge=1, description="stages the layers are divided into")
    ffn: FfnDevices | None = Field(None, description="devices of their own for the routed experts; none by default")
    topology: TopologyField | None = Field(None, description="instead of the hardware's own node")
    placement: Placement = Field(
        default_factory=lambda: Placement.resolve("contiguous"), description="of experts on ranks"
    )
    overlap: Overlap = Overlap()
    replicas: int = Field(1, ge=1)
    autoscale: Autoscale | None = Field(None, description="replicas that come and go with the load; fixed by default")
    scheduler: Scheduler = Field(default_factory=lambda: Scheduler.resolve("continuous"))
    memory: MemorySettings = MemorySettings()
    engine: str = Field("vllm", description="host overheads, from hwprofiles/engines")

    @property
    def devices(self) -> int:
        """Of one replica, those of its experts included."""
        return self.tp * self.dp * self.pp + (self.ffn.devices if self.ffn else 0)

    @property
    def most_replicas(self) -> int:
        """There may be at a time."""
        return self.replicas if self.autoscale is None else self.autoscale.most

    @model_validator(mode="after")
    def _ep_divides(self) -> Self:
        if (self.tp * self.dp) % self.ep:
            said = {"ep": self.ep, "ranks": self.tp * self.dp, "key": "ep"}
            raise PydanticCustomError("own_key", "ep {ep} does not divide tp*dp = {ranks}", said)
        return self

    @model_validator(mode="after")
    def _goes_with_ffn_devices(self) -> Self:
        if self.ffn is None:
            return self
        beside = {
            "ep": self.ep > 1 and "the experts' ranks are ffn.ep",
            "pp": self.pp > 1 and "pipeline stages of split replicas are not modelled",
            "topology": self.topology is not None and "say ffn.bandwidth and ffn.latency instead",
            "overlap": self.overlap != Overlap() and "micro-batches already overlap compute and communication",
            "scheduler.speculation": getattr(self.scheduler, "speculation", None) and "verify steps are not modelled",
        }
        wrong = [f"{name}: {why}" for name, why in beside.items() if why]
        if wrong:
            raise ValueError(f"with ffn, leave out {'; '.join(wrong)}")
        return self

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> Self:
        scale = self.autoscale
        if scale is not None and not scale.least <= self.replicas <= scale.most:
            raise ValueError(
                f"replicas {self.replicas} at the start is not within autoscale {scale.least}..{scale.most}"
            )
        return self


class Pool(Layout):
    """Replicas of one layout on one hardware."""

    hardware: HardwareField


class KvTransfer(Frozen):
    """How KV goes from prefill to decode replicas; by default over the hardware's own link or network cards."""

    bandwidth: units.BytesPerSecond | None = Field(None, gt=0, description="of one replica, over all its cards")
    latency: units.Seconds | None = Field(None, ge=0, description="of one transfer")


def place(pool: str) -> str:
    """The path of a pool's keys in a scenario."""
    return "deployment" if pool == "all" else f"deployment.pools.{pool}"


_BESIDE_POOLS = {"pools", "router", "faults", "admission", "transfer"}


class Deployment(Layout):
    """One pool's keys, or `pools` of prefill and decode; requests are spread by the router."""

    hardware: HardwareField | None = None
    pools: dict[Literal["prefill", "decode"], Pool] | None = None
    router: Router = Field(default_factory=lambda: Router.resolve("round_robin"))
    transfer: KvTransfer | None = Field(None, description="of KV between pools, instead of deriving it")
    faults: Faults | None = Field(None, description="replicas that fail, and rolling restarts; none by default")
    admission: Admission | None = Field(None, description="who is turned away or gives up; nobody by default")

    @model_validator(mode="after")
    def _one_or_two(self) -> Self:
        if self.pools is None and self.hardware is None:
            raise ValueError("name its hardware, or give pools")
        if self.pools is not None:
            beside = sorted(self.model_fields_set - _BESIDE_POOLS)
            if beside:
                raise ValueError(f"with pools, {', '.join(beside)} belong inside each pool")
            if set(self.pools) != {"prefill", "decode"}:
                raise ValueError("pools need both prefill and decode")
        elif self.transfer is not None:
            raise ValueError("transfer moves KV between pools: name them, or leave transfer out")
        return self

    @model_validator(mode="after")
    def _acts_on_replicas_there_are(self) -> Self:
        count = sum(pool.replicas for pool in self.by_name().values())
        beyond = [outage.replica for outage in (self.faults.outages if self.faults else ()) if outage.replica >= count]
        if beyond:
            raise ValueError(f"faults.outages name replica {beyond[0]} of {count}, which are numbered from 0")
        return self

    def by_name(self) -> dict[str, Pool]:
        """The pools by name; a single one is called `all`."""
        if self.pools is not None:
            return {str(name): pool for name, pool in self.pools.items()}
        own = {name: getattr(self, name) for name in Pool.model_fields}
        return {"all": Pool.model_construct(**own)}


class SloTerms(Frozen):
    """Limits of one request."""

    ttft: units.Seconds | None = Field(None, gt=0, description="time to first token")
    tpot: units.Seconds | None = Field(None, gt=0, description="time per output token after the first")
    e2e: units.Seconds | None = Field(None, gt=0, description="arrival to last token")


class Slo(SloTerms):
    """What a request must meet to count as goodput."""

    percentile: float = Field(99.0, gt=0, le=100, description="share of requests that must meet it")
    classes: dict[int, SloTerms] = Field(
        default_factory=dict, description="limits of requests of a priority, instead of those above"
    )

    def of(self, priority: int) -> Slo:
        """What requests of a priority must meet."""
        own = self.classes.get(priority)
        return self if own is None else Slo(percentile=self.percentile).model_copy(update=dict(own))


class Power(Frozen):
    """Cap per device, and what a kilowatt-hour and a device-hour cost."""

    cap: units.Watts | None = Field(None, gt=0, description="per device; below the board's own")
    pue: float | None = Field(None, ge=1, description="facility power over node power")
    carbon: units.CarbonIntensity | None = Field(None, ge=0, description="of the grid")
    price: units.Price | None = Field(None, ge=0, description="per device-hour")


class Simulation(Frozen):
    """How it is simulated."""

    detail: Literal["step", "op"] = "step"
    disturbances: Disturbances = Disturbances()
    seed: int = Field(0, ge=0)
    replications: int = Field(1, ge=1)
    warm_up: units.Seconds = Field(0.0, ge=0, description="cut from the metrics")

    @model_validator(mode="after")
    def _disturbed_ops(self) -> Self:
        if self.detail == "step" and self.disturbances != Disturbances():
            raise ValueError("disturbances: of ranks and links, which only detail: op tells apart")
        return self


def _unknown_names(document: Document) -> list[Problem]:
    """Models, hardware and engines that no file is found for, looked up even where other keys are wrong."""
    found: list[Problem] = []
    deployment = document.values.get("deployment")
    pools = deployment.get("pools") if isinstance(deployment, dict) else None
    below = [("deployment",), *(("deployment", "pools", name) for name in (pools if isinstance(pools, dict) else ()))]
    places: list[tuple[str, str, tuple[str, ...]]] = [("scenarios/models", "model", ("model",))]
    for pool in below:
        places += [
            ("hwprofiles", "hardware", (*pool, "hardware")),
            ("hwprofiles", "hardware", (*pool, "hardware", "name")),
            ("hwprofiles", "hardware", (*pool, "ffn", "hardware")),
            ("hwprofiles", "hardware", (*pool, "ffn", "hardware", "name")),
        ]
        places += [("hwprofiles/engines", "engine", (*pool, "engine"))]
    for kind, what, path in places:
        name = document.value(path)
        if not isinstance(name, str) or (document.folder / name).is_file():
            continue
        try:
            find(kind, name, what)
        except InputError as error:
            found += [Problem(p.message, ".".join(path), document.place(path), p.hint) for p in error.problems]
    return found


class Scenario(Frozen):
    """A model on a deployment under a workload."""

    title: str = Field("", description="the question, as the report asks it")
    model: str = Field(description="a name, a YAML, or a path to a config.json")
    precision: Precision | None = Field(None, description="instead of the model's own")
    deployment: Deployment
    expert_load: ExpertLoadField = Field(
        default_factory=lambda: read_load("uniform"), description="how tokens spread over experts"
    )
    sparsity: Sparsity | None = Field(None, description="activation sparsity and its format")
    densities: str | None = Field(None, description="named set of activation densities by projection")
    workload: Workload
    slo: Slo = Slo()
    power: Power = Power()
    simulation: Simulation = Simulation()
    study: Study | None = None

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _document: Document | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, name: str | Path, settings: Iterable[str] = ()) -> Scenario:
        """The scenario in a file, or of a name among the scenarios, with `path=value` settings applied.

        Raises:
            InputError: all problems at once, each with its place.

        """
        document = with_settings(load_yaml(find("scenarios", str(name), "scenario")), settings)
        return cls.from_document(document)

    @classmethod
    def of(cls, values: Mapping[str, Any], folder: Path | None = None) -> Scenario:
        """The scenario of a plain mapping, as a YAML file would hold it."""
        return cls.from_document(Document(dict(values), {}, folder or Path.cwd()))

    @classmethod
    def from_document(cls, document: Document) -> Scenario:
        """The scenario of plain values that know their places."""
        names = _unknown_names(document)
        try:
            scenario: Scenario = build(cls, document)
        except InputError as error:
            raise InputError([*error.problems, *names]) from None
        scenario._folder, scenario._document = document.folder, document
        workload = [
            Problem(p.message, p.path or ("" if p.place else "workload"), p.place, p.hint)
            for p in scenario.workload.problems(document.folder)
        ]
        if names or workload:
            raise InputError([*names, *map(document.placed, workload)])
        return scenario

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Problems raised inside name the place of their path in the scenario's file."""
        try:
            yield
        except InputError as error:
            raise InputError([self.document.placed(problem) for problem in error.problems]) from None

    def with_settings(self, settings: Iterable[str]) -> Scenario:
        """A copy with `path=value` settings applied and everything checked again."""
        document = self._document or Document(self.model_dump(mode="json"), {}, self._folder)
        return self.from_document(with_settings(document, settings))

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self._folder

    @property
    def document(self) -> Document:
        """The plain values it was made of."""
        return self._document or Document(self.model_dump(mode="json"), {}, self._folder)
