"""Training of what the package ships: by commands of their own, resumable, never in the tests but for a few steps."""
