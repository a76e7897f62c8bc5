"""The one table of what a run reports: name, unit, scope and meaning of every figure and every column.

Summaries, Parquet columns, terminal tables, the report and the documentation are all written from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Table = Literal["summary", "requests", "steps", "events", "power", "ops"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A figure of the summary or a column of a table.

    `scope` says of what it is: a request, an engine step, a replica, the deployment's devices (gpu), an op.
    `label` is its name for readers. `better` is the direction a reader hopes for; empty where there is none.
    """

    table: Table
    name: str
    unit: str
    scope: str
    meaning: str
    label: str = ""
    better: Literal["lower", "higher", ""] = ""


def _rows(table: Table, scope: str, text: str) -> Iterator[Attribute]:
    """Attributes from lines of `name | unit | meaning`, in the summary `name | unit | label | meaning | better`."""
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        name, unit, label, meaning, better = [*cells, ""][:5] if table == "summary" else [*cells[:2], "", cells[2], ""]
        yield Attribute(table, name, unit, scope, meaning, label, better)  # type: ignore[arg-type]


ATTRIBUTES: tuple[Attribute, ...] = (
    *_rows(
        "summary",
        "requests",
        """
        requests.completed | requests | Completed requests | finished, of those that arrived after the warm-up | higher
        requests.failed | requests | Failed requests | ended in any other way | lower
        outcomes | requests | Outcomes | how many ended in each way
        ttft_s | s | TTFT | time to first token: arrival to first output token, queueing included | lower
        tpot_s | s | TPOT | time per output token after the first, one value a request | lower
        itl_s | s | ITL | inter-token latency: every gap between two tokens of a request, pauses included | lower
        e2e_s | s | End to end | arrival to last token | lower
        by_priority | | By priority | requests, latencies and SLO of each priority, where there are several
        queue_s | s | Queueing | arrival to first admission into a batch | lower
        slo.met | | SLO met | whether at least the SLO's percentile of requests met all of its terms | higher
        slo.attainment | share | SLO attainment | requests that met every SLO term, of all that came | higher
        """,
    ),
    *_rows(
        "summary",
        "deployment",
        """
        step_s | s | Step time | one engine step of the fixed batch | lower
        peak_memory_bytes | B | Peak memory | of one device while it trains, context and fragments left out | lower
        tok_per_s | tok/s | Tokens in steps | tokens of such steps back to back, all replicas | higher
        saturated | | Saturated | whether more arrives than can be served
        partial | | Interrupted | whether the run was cut short
        duration_s | s | Measured time | measured window: warm-up to end of run
        requests_per_s | requests/s | Request rate | completed requests over the window | higher
        output_tok_per_s | tok/s | Output rate | output tokens made in the window | higher
        total_tok_per_s | tok/s | Token rate | prompt tokens computed and output tokens made | higher
        goodput_per_s | requests/s | Goodput | completed requests that met every SLO term, over the window | higher
        utilisation | share | Utilisation | of the replicas' up-time in which an engine step ran
        running | requests | Batch | mean in the batch while a replica is up, per replica
        waiting | requests | Queue | mean waiting for admission, per replica | lower
        kv_blocks | blocks | KV blocks of a replica | KV blocks of one replica
        kv_use.blocks | blocks | KV blocks, all replicas | KV blocks of all replicas
        kv_use.mean | share | KV use, mean | KV blocks in use, time-weighted
        kv_use.max | share | KV use, highest | KV blocks in use at their highest, of one replica
        preemptions | | Preemptions | times a running request lost its place | lower
        cached_share | share | Prefix cache hits | of prompt tokens taken from the prefix cache | higher
        bound | | Bound by | by phase, the shares of compute, memory, network and host
        """,
    ),
    *_rows(
        "summary",
        "gpu",
        """
        energy_j | J | Energy | of all devices in the window, idle time included; devices only | lower
        energy_by_component_j | J | Energy by component | by component; idle is drawn between engine steps
        j_per_output_tok | J/tok | Energy per output token | energy over output tokens made in the window | lower
        j_per_tok | J/tok | Energy per token | of a step over its tokens | lower
        scope | | Scope | whose energy and power these are: gpu means the devices only
        power_w | W | Power | energy over the window, all devices | lower
        """,
    ),
    *_rows(
        "summary",
        "node, facility or money",
        """
        economy.node_energy_j | J | Node energy | devices, and the share of host and fans of each | lower
        economy.node_j_per_output_tok | J/tok | Node energy per token | node energy over output tokens | lower
        economy.facility_energy_j | J | Facility energy | node energy times PUE | lower
        economy.facility_j_per_output_tok | J/tok | Facility energy per token | the same over output tokens | lower
        economy.carbon_g | gCO2e | Carbon | of the facility's energy, or the node's where no PUE is given | lower
        economy.carbon_g_per_mtok | gCO2e/Mtok | Carbon per Mtok | the same over output tokens | lower
        economy.cost | USD | Cost | device-hours of the window at the price given, in its currency | lower
        economy.cost_per_mtok | USD/Mtok | Cost per Mtok | the same over output tokens | lower
        """,
    ),
    *_rows(
        "summary",
        "simulator",
        """
        wall_s | s | Simulation took | wall-clock time of the simulation, first event to last record | lower
        requests_per_wall_s | requests/s | Simulation speed | requests over wall_s | higher
        intervals | | Intervals | low and high of the figures named, and what they express
        provenance | | Provenance | where the figures that time and energy rest on come from
        """,
    ),
    *_rows(
        "requests",
        "request",
        """
        replication | | of the run, from 0
        request | | row of the request table
        client | | of a mix or session, from 0
        priority | | a lower one is served first
        arrival_s | s | when it came
        prompt_tok | tok | of its prompt
        output_tok | tok | asked for
        replica | | that served it last; -1 where none did
        admitted_s | s | first admission into a batch
        first_token_s | s | when its first output token was there
        finish_s | s | when its last one was
        preemptions | | times it lost its place
        cached_tok | tok | of the prompt, from the prefix cache
        generated_tok | tok | output tokens it got
        outcome | | how it ended, of a closed set
        ttft_s | s | first_token_s - arrival_s
        tpot_s | s | (finish_s - first_token_s) / (output_tok - 1)
        e2e_s | s | finish_s - arrival_s
        queue_s | s | admitted_s - arrival_s
        """,
    ),
    *_rows(
        "steps",
        "step or leap of one replica",
        """
        replication | | of the run, from 0
        replica | | that ran it
        start_s | s | begin of the first iteration
        end_s | s | end of the last iteration
        first_s | s | time of the first iteration
        slope_s | s | growth per iteration: iteration j takes first_s + slope_s*j
        iterations | | engine iterations it stands for
        decode | requests | that got one token in each iteration
        context_tok | tok | attended in the first iteration, summed over the decoding requests
        prefill_tok | tok | of prompts computed
        chunks | | prompt chunks computed
        output_tok | tok | made
        kv_blocks | blocks | in use at the end
        running | requests | in the batch at the end
        waiting | requests | at the end
        compute_j | J | of the compute units
        memory_j | J | of the device memory
        link_j | J | of the links between devices
        static_j | J | drawn whatever runs
        """,
    ),
    *_rows(
        "events",
        "event",
        """
        replication | | of the run, from 0
        time_s | s | when
        event | | what, of a closed set
        replica | | where
        request | | whose; -1 where nobody's
        """,
    ),
    *_rows(
        "power",
        "interval of the deployment",
        """
        replication | | of the run, from 0
        start_s | s | begin
        end_s | s | end
        compute_w | W | mean power of the compute units
        memory_w | W | of the device memory
        link_w | W | of the links between devices
        static_w | W | drawn whatever runs, while steps run
        idle_w | W | drawn between steps
        total_w | W | all of them
        running | requests | mean in the batches, all replicas
        waiting | requests | mean, all replicas
        kv_blocks | blocks | mean in use, all replicas
        """,
    ),
    *_rows(
        "ops",
        "kernel or collective in one step of a phase",
        """
        phase | | prefill or decode
        part | | of the model, such as attention.qkv
        op | | kernel or collective
        dtype | | of the multiply-adds
        count | | launches
        time_s | s | all launches
        flop | FLOP | asked for, all launches, one device
        hbm_bytes | B | through device memory, all launches, one device
        link_bytes | B | sent to other devices, all launches, one device
        compute_j | J | one device
        memory_j | J | one device
        link_j | J | one device
        static_j | J | one device
        bound | | compute, memory, network or host
        half_width | | of the 90 % interval of the time, in log
        provenance | | of the time
        peak_flop_per_s | FLOP/s | of one device at that dtype
        peak_bytes_per_s | B/s | of one device's memory
        """,
    ),
)


def attributes(table: Table) -> dict[str, Attribute]:
    """The rows of one table by name, in the order they are shown."""
    return {row.name: row for row in ATTRIBUTES if row.table == table}


def markdown(table: Table) -> str:
    """The rows of one table as a Markdown table, for the documentation."""
    lines = ["| name | unit | of | meaning |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.unit} | {row.scope} | {row.meaning} |" for row in attributes(table).values()]
    return "\n".join(lines)
