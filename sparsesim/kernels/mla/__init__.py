"""Absorbed multi-head latent attention for decode."""
