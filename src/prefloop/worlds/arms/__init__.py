"""The paper's didactic problems: arms under a context, and sequences of arms."""
