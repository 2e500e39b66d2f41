"""The embedded cloud: a strict instance metadata service of our own, and AWS by moto. Never imported by the agent."""
