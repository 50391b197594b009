"""Run one fit: merge its configuration, find run folders and checkpoints, and set up the Trainer."""
