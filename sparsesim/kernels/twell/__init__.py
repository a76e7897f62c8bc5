"""Gated-ReLU FFN that skips the up and down rows of inactive neurons: TwELL and its peers."""
