"""Equipment for experiments: many runs, peers, speed and cost. No notebook needs it."""
