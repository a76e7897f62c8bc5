"""State-space recurrences: Mamba-2 scan and decode, Gated DeltaNet decode."""
