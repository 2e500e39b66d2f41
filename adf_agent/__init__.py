"""Amazon Docker Flow: an EC2 instance boots its release, serves it and leaves without losing a request."""

__version__ = "0.1.0"
