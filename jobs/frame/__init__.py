"""The frame of all jobs: the command line and how a job ends (`command`), stages (`stages`), Ray (`cluster`)."""
