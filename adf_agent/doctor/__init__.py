"""`adf-agent doctor`: tries what this instance depends on, changes nothing, and says what to mend. No boot needs it."""
