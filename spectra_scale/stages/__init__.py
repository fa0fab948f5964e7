"""The stages: one file and one public `run` each; they meet only on disk."""
