"""Side by side with peers, and the figures of the closing notes; each prints ratios of one run."""
