"""Which method to use on what data: problems with known outcomes, measures before training, and a tested rule."""
