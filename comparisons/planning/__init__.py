"""What a plan will take, before its first second: counts, a throughput, a schedule, disk."""
