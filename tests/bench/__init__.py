"""What it costs, each figure beside the limit that it was measured against in the same run."""
