"""Write what documents take from the code: schema, table of errors, equations, picture (`make docs`).

With `--check` nothing is written and the exit code is 1 where a document is not current. The picture is drawn, not
checked: it comes from the quickstart's run folder.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHIPS = ("h100-sxm", "h200-sxm")
KINDS = {
    "dense products, bf16 and fp8": ("gemm.",),
    "attention, prefill": ("attention_prefill.",),
    "attention, decode": ("attention_decode.",),
    "latent attention (MLA)": ("mla_",),
    "mixture-of-experts FFN": ("moe_ffn.",),
    "Mamba-2 scan and steps": ("ssm_",),
    "sparse FFN: TwELL, ELL, CSR": ("sparse_ffn",),
    "norms, rotary, activations, copies": ("pointwise.", "copy"),
    "collectives in CUDA graphs, 2 GPUs": tuple(
        f"{name}.graph" for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")
    ),
}
"""Rows of the table and the prefixes of the kernel classes behind them."""
EQUATIONS = {
    "Time of a kernel": (
        "cost.forms.gemm",
        "cost.forms.attention",
        "cost.forms.ssm",
        "cost.forms.moe",
        "cost.forms.sparse_ffn",
        "cost.forms.memory",
        "cost.forms.collective",
        "cost.forms.routed",
    ),
    "Tokens per expert": ("cost.routing", "cost.network.routing", "laws"),
    "Power and energy": ("cost.power", "metrics.energy"),
    "Memory": ("cost.memory",),
    "A replica without a queue": ("closed_form", "cost.steady"),
    "Network": (
        "cost.network.collectives",
        "cost.network.moe",
        "cost.network.placed",
        "cost.network.two_batch",
        "cost.network.exchange",
    ),
    "Attention and experts apart": ("cost.split",),
    "Training": ("training",),
    "Event-driven chips": (
        "cost.neuromorphic.events",
        "cost.neuromorphic.closed_form",
        "cost.neuromorphic.published",
        "cost.neuromorphic.bounds",
        "cost.neuromorphic.fit",
    ),
    "Boards and consumer cards": ("cost.edge.mlc", "cost.edge.framework", "cost.edge.consumer"),
}
"""Sections of the page of equations and the modules whose docstrings hold them, beside the code."""
BEGIN, END = "<!-- errors: make docs -->", "<!-- end of errors -->"


def schema() -> str:
    """The scenario's JSON schema, as `sparsesim schema` prints it."""
    from sparsesim.schema import scenario_schema

    return json.dumps(scenario_schema(), indent=2) + "\n"


def errors() -> str:
    """The table of errors, from the fits in the tree."""
    fits = {chip: json.loads((ROOT / f"hwprofiles/fits/{chip}.json").read_text()) for chip in CHIPS}
    lines = ["| what | " + " | ".join(CHIPS) + " |", "|---|" + "---|" * len(CHIPS)]
    for kind, prefixes in KINDS.items():
        cells = [_cell(_classes(fit, prefixes)) for fit in fits.values()]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    joules = [_cell([fit["energy"]]) if fit["energy"] else "-" for fit in fits.values()]
    lines.append("| energy of a kernel | " + " | ".join(joules) + " |")
    engine = json.loads((ROOT / "hwprofiles/fits/engines/vllm.json").read_text())["errors"]
    for name, label in (("median_itl", "time between tokens"), ("power", "power")):
        cell = f"{engine[name]['mape']:.0f} % ({engine[name]['n']})"
        lines.append(f"| served by vLLM, published: {label} | {cell} | |")
    return "\n".join(lines)


def _classes(fit: dict[str, Any], prefixes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [entry for name, entry in fit["classes"].items() if name.startswith(prefixes) and entry["rows"]]


def _cell(entries: list[dict[str, Any]]) -> str:
    rows = sum(entry["rows"] for entry in entries)
    if not rows:
        return "-"
    mape = sum(entry["rows"] * entry["errors"]["mape"] for entry in entries) / rows
    return f"{mape:.0f} % ({rows})"


def readme() -> str:
    """The README with the present table of errors."""
    return _with_table("README.md", errors())


def protocol() -> str:
    """The calibration's protocol with the errors of every kernel class, good and bad alike."""
    return _with_table("calibration/README.md", every_class())


def _with_table(name: str, table: str) -> str:
    before, _, rest = (ROOT / name).read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def every_class() -> str:
    """One row per chip and class: left-out layers by the form alone and corrected, and the largest fifth left out."""
    names = ("form_mape", "mape", "median", "p90", "bias", "extrapolation_mape", "inside")
    head = ("chip", "class", "rows", "form alone", "corrected", "median", "90th", "bias", "largest fifth", "inside")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for chip in CHIPS:
        fit = json.loads((ROOT / f"hwprofiles/fits/{chip}.json").read_text())
        for name, entry in fit["classes"].items():
            cells = [f"{entry['errors'][key]:.1f}" for key in names]
            lines.append(f"| {chip} | {name} | {entry['rows']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def equations() -> str:
    """The page of equations: its own introduction, then what stands at the head of each module."""
    lines = [(ROOT / "docs/equations.head.md").read_text()]
    for title, modules in EQUATIONS.items():
        lines.append(f"## {title}\n")
        for name in modules:
            path = f"sparsesim/{name.replace('.', '/')}.py"
            module = importlib.import_module(f"sparsesim.{name}")
            lines += [
                f"### [`{name}`](../{path})\n",
                inspect.cleandoc(module.__doc__ or "") + "\n",
                *_parameters(module),
            ]
    return "\n".join(lines)


def _parameters(module: ModuleType) -> Iterator[str]:
    """A table of the parameters of each form of a module; equal tables once."""
    from sparsesim.cost.forms.base import Form

    forms = [
        form
        for form in vars(module).values()
        if inspect.isclass(form)
        and issubclass(form, Form)
        and form.__module__ == module.__name__
        and hasattr(form, "op")
    ]
    names: dict[Any, list[str]] = {}
    for form in forms:
        names.setdefault(form.parameters, []).append(f"`{form.op}`")
    for parameters, ops in names.items():
        if not parameters:
            continue
        rows = [f"| `{p.name}` | {p.unit} | {p.low:g} to {p.high:g} | {p.meaning} |" for p in parameters]
        yield "\n".join([f"| {', '.join(ops)} | unit | bounds | |", "|---|---|---|---|", *rows]) + "\n"


def documents() -> Iterator[tuple[Path, str]]:
    """Every generated text with its place."""
    yield ROOT / "docs/schema/scenario.json", schema()
    yield ROOT / "README.md", readme()
    yield ROOT / "calibration/README.md", protocol()
    yield ROOT / "docs/equations.md", equations()


def picture() -> None:
    """Draw the quickstart's comparison into docs/images."""
    from sparsesim import Scenario
    from sparsesim.report.write import write_report
    from sparsesim.study.compare import run_cases, write_cases

    scenario = Scenario.load(ROOT / "scenarios/quickstart.yaml")
    done, runs = run_cases([scenario], lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        write_cases(done, runs, Path(folder))
        write_report(runs, Path(folder), scenario.title)
        shutil.copy(Path(folder) / "plots/latency.png", ROOT / "docs/images/quickstart.png")


def main() -> int:
    """Write, or check, and say which documents are not current."""
    stale = [(path, text) for path, text in documents() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv:
        for path, _ in stale:
            print(f"{path.relative_to(ROOT)} is not current: make docs")
        return 1 if stale else 0
    for path, text in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (ROOT / "docs/images").mkdir(exist_ok=True)
    picture()
    return 0


if __name__ == "__main__":
    sys.exit(main())
