"""One fit as a function: its configuration, the folders of runs, their checkpoints, and the parts of the Trainer."""
