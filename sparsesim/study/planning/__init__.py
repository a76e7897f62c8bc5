"""The search for a deployment: its space, the screening of all of it, and the simulation of the best."""
