"""The commands of `adf-release`: releases made, delivered, built and verified."""
