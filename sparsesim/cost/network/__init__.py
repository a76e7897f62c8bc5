"""Closed forms of communication: collectives over a fabric, and MoE dispatch and combine from routing and placement.

Pure functions of frozen values; arrays broadcast. Bandwidths in a `Fabric` are what is achieved, or nominal ones
scaled by a fitted `Protocol`.
"""
