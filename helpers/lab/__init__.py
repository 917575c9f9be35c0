"""Equipment for experiments: many runs, peers, speed. None of the seven notebooks needs it."""
