"""What is on disk: the schema as data, releases, samples and artifacts."""
