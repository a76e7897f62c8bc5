"""Write the frozen predictions anew: `python tests/golden/make.py`. Say in the changelog why they moved."""

from pathlib import Path

import numpy as np
import pandas as pd

from sparsesim.calibrate.fit.rows import measured
from sparsesim.cost.kernel import cost_model
from sparsesim.cost.predict import predict
from sparsesim.loading import data_root
from sparsesim.scenario import Hardware
from sparsesim.study.published import published_suite, table
from sparsesim.system import gpu_of

HERE = Path(__file__).parent
CHIPS = ("h100-sxm", "h200-sxm", "a100-sxm", "b200")
ROWS = 90


def ops() -> pd.DataFrame:
    """Measured shapes and ones between them (sizes times 1.3, whole), spread over all ops."""
    rows = measured(data_root() / "calibration" / "data" / "h100-sxm")
    rng = np.random.default_rng(7)
    each = max(ROWS // rows["op"].nunique(), 3)
    picked = [part.iloc[rng.permutation(len(part))[:each]] for _, part in rows.groupby("op")]
    columns = [c for c in rows.columns if not c.startswith("measured") and c not in MEASURED]
    frame = pd.concat(picked)[columns].reset_index(drop=True)
    between = frame.copy()
    for name in ("m", "batch", "tokens", "bytes"):
        if name in between:
            between[name] = [str(round(1.3 * float(cell)) or 1) if cell else "" for cell in between[name]]
    return pd.concat([frame, between], ignore_index=True).dropna(axis=1, how="all")


MEASURED = (
    "minimum_time_s", "spread", "samples", "calls_per_sample", "buffer_sets", "memory_j", "power_w", "memory_power_w",
    "clock_mhz", "temperature_c", "backend", "alternatives", "max_abs_error", "relative_error", "table", "group",
)  # fmt: skip


def answered(frame: pd.DataFrame, chip: str) -> pd.DataFrame:
    """Time and energy of every row on a chip."""
    found = predict(frame, cost_model(gpu_of(Hardware(name=chip))))
    return found.assign(chip=chip)[["chip", *frame.columns, "time_s", "energy_j", "time_low_s", "time_high_s"]]


def main() -> None:
    """Write predictions.csv, and the published suite's groups."""
    import json

    frame = ops()
    whole = pd.concat([answered(frame, chip) for chip in CHIPS], ignore_index=True)
    whole.to_csv(HERE / "predictions.csv", index=False, float_format="%.9g")
    groups = {f"{row['group']}: {row['quantity']}": round(row["mape"], 3) for row in table(published_suite()[0])}
    (HERE.parent / "fit" / "published.json").write_text(json.dumps(groups, indent=1) + "\n")


if __name__ == "__main__":
    main()
