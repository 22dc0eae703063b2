"""The project's own attribution methods, one a file. They use the public plugin API and nothing else."""
