"""What a plan will take: passes, hours, disk."""
