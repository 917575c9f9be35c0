"""Equipment for experiments: many runs, peers, speed and cost. None of the seven notebooks needs it."""
