"""The event-driven simulation of serving: replicas, schedulers and routers on SimPy."""
