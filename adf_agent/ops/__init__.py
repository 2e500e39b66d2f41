"""The operators' commands: adf-release and adf-config. The agent imports nothing of them."""
