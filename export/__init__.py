"""The workstation side: turn a checkpoint into a bundle a small device can run."""
