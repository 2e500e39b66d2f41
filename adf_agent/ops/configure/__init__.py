"""The commands of `adf-config`: an app's config in the table, looked at and changed."""
