"""Frozen predictions: a change that moves one says why in the changelog, and writes them anew (make.py)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsesim.cost.kernel import cost_model
from sparsesim.cost.predict import predict
from sparsesim.scenario import Hardware
from sparsesim.system import gpu_of

FROZEN = pd.read_csv(Path(__file__).parent / "predictions.csv", dtype=str, keep_default_na=False)
ANSWERS = ("time_s", "energy_j", "time_low_s", "time_high_s")


@pytest.mark.parametrize("chip", sorted(set(FROZEN["chip"])))
def test_predictions_stay(chip: str) -> None:
    own = FROZEN[FROZEN["chip"] == chip].reset_index(drop=True)
    asked = own.drop(columns=["chip", *ANSWERS])
    now = predict(asked, cost_model(gpu_of(Hardware(name=chip))))
    assert len(own) >= 60
    for name in ANSWERS:
        before = own[name].replace("", "nan").astype(float).to_numpy()
        np.testing.assert_allclose(now[name].to_numpy(dtype=float), before, rtol=1e-6, err_msg=name)
