"""What a roll is made of: the group as it is, what is to change, the refresh, the canary, the screen."""
