"""Every published row that sparsesim can express, predicted by fits that have not seen it."""

from sparsesim.study.published.judged import Judged, table
from sparsesim.study.published.suite import published_suite

__all__ = ["Judged", "published_suite", "table"]
