"""Schedulers: what a replica computes next. One kind per module."""

from sparsesim.sim.schedulers.base import Scheduler

__all__ = ["Scheduler"]
